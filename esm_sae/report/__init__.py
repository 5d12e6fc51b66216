"""The feature report: one self-contained HTML page per SAE."""

from esm_sae.report.html import write_report

__all__ = ["write_report"]
