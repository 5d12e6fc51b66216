"""Checks of the pages, and of files that were downloaded."""

from typing import NamedTuple

import dagster as dg

from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import require_files
from esm_sae.report.verification import verify_cluster_report, verify_report
from esm_sae_assets.checks.looking import Check, Outputs, look, look_at_each

REPORT = (
    Check(
        "page_is_whole",
        "Of every k: the page has an entry for each latent, ends as it should, and fetches "
        "nothing.",
    ),
)
CLUSTER_REPORT = (
    Check(
        "page_is_whole",
        "The page has an entry for each density cluster, ends as it should, and fetches nothing.",
    ),
)
DOWNLOAD = (Check("file_is_as_recorded", "The file has the size and the hash of its download."),)


def report_checks(pages: Outputs) -> list[dg.AssetCheckResult]:
    """Look at the reports, by k."""
    (whole,) = REPORT
    return [look_at_each(whole, verify_report, pages, of="k")]


def cluster_report_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at the report of the density clusters."""
    (whole,) = CLUSTER_REPORT
    return [look(whole, lambda: verify_cluster_report(product))]


def download_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at what was downloaded."""
    (as_recorded,) = DOWNLOAD
    return [look(as_recorded, lambda: _Files(require_files(product), product.path.stat().st_size))]


class _Files(NamedTuple):
    files: int
    bytes: int
