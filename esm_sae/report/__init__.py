"""Reports: self-contained HTML pages, of an SAE, of density clusters, of one's own proteins."""

from esm_sae.report.cluster_report import write_cluster_report
from esm_sae.report.html import write_report
from esm_sae.report.protein_report import write_protein_report

__all__ = ["write_cluster_report", "write_protein_report", "write_report"]
