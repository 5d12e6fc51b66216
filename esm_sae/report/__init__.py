"""Reports: self-contained HTML pages, one per SAE and one of the density clusters."""

from esm_sae.report.cluster_report import write_cluster_report
from esm_sae.report.html import write_report

__all__ = ["write_cluster_report", "write_report"]
