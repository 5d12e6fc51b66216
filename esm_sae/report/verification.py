"""A second look at pages: what those hold that pass."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import AGAIN, require_equal, require_files

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
# What a browser would fetch of itself; a link is followed by who clicks on it.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc\s*=\s*["'](?!data:)([^"']*)"""
    r"""|<link\b[^>]*\bhref\s*=\s*["']([^"']*)|@import\s+([^;]+)""",
    re.IGNORECASE,
)


class WholePage(NamedTuple):
    """What is known of a page that stands alone.

    Attributes:
        bytes: of the file.
        entries: latents or clusters that it shows.
    """

    bytes: int
    entries: int


def verify_report(product: Product) -> WholePage:
    """Check that a report is whole, needs no network, and has an entry for each latent.

    Args:
        product: as ``write_report`` made it.

    Raises:
        InputError: it is not, or has not.
    """
    return _verify(product, listed="top", counted="latents")


def verify_cluster_report(product: Product) -> WholePage:
    """Check that a report is whole, needs no network, and has an entry for each density cluster.

    Args:
        product: as ``write_cluster_report`` made it.

    Raises:
        InputError: it is not, or has not.
    """
    return _verify(product, listed="members", counted="clusters")


def _verify(product: Product, *, listed: str, counted: str) -> WholePage:
    require_files(product)
    path = product.path
    page = path.read_text(encoding="utf-8", errors="replace")
    if not page.rstrip().endswith("</html>"):
        raise InputError(f"{path}: does not end as a page does; {AGAIN}")
    if fetched := _FETCHED.search(page):
        what = next(group for group in fetched.groups() if group is not None)
        raise InputError(f"{path}: fetches {what[:80]}, a page stands alone; {AGAIN}")
    entries = _data(path, page).get(listed)
    require_equal(
        path,
        {
            counted: (
                len(entries) if isinstance(entries, list) else None,
                product.manifest.summary[counted],
            )
        },
    )
    return WholePage(path.stat().st_size, product.manifest.summary[counted])


def _data(path: Path, page: str) -> dict[str, Any]:
    found = _DATA.search(page)
    try:
        data = json.loads(found[1]) if found else None
    except ValueError as error:
        raise InputError(f"{path}: what its script reads is not JSON ({error}); {AGAIN}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds nothing that its script could read; {AGAIN}")
    return data
