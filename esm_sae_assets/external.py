"""Files that the settings name: what is local is noticed when it changes, a URL is an asset."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import dagster as dg

from esm_sae import storage
from esm_sae.data import provenance
from esm_sae_assets import metadata
from esm_sae_assets.checks import specs_of
from esm_sae_assets.checks.reports import DOWNLOAD, download_checks
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import code_version


def state_of(source: str) -> list[str]:
    """Return size and time of a local file, or of those in a folder; nothing of what is not local.

    Of what comes with the package, the hashes. In a code version it shows that one was replaced
    in place.
    """
    if source == "bundled":
        return sorted(provenance()["sha256"].values())
    path = Path(source)
    files = sorted(path.iterdir()) if source and path.is_dir() else [path]
    states = [(file.name, file.stat()) for file in files if file.is_file()]
    return [f"{name}:{state.st_size}:{state.st_mtime_ns}" for name, state in states]


def place_of(source: str, data: DataRoot, name: str) -> str | Path | None:
    """Return where a file of the settings is read from; None where they name none.

    ``name`` is the asset's, of which a download has its name.
    """
    if not source:
        return None
    return data.file(_file_name(source, name)) if storage.is_http_url(source) else source


def download_asset(
    name: str, source: str, *, group: str, description: str, checksum: str = ""
) -> list[dg.AssetsDefinition]:
    """Build the asset that downloads a file of the settings; none where that is not at a URL."""
    if not storage.is_http_url(source):
        return []

    @dg.asset(
        name=name,
        group_name=group,
        description=description,
        kinds={"file"},
        check_specs=specs_of(name, DOWNLOAD),
        code_version=code_version(1, source, checksum),
    )
    def downloaded(data: DataRoot) -> dg.MaterializeResult:
        # Only here: httpx is slow to import.
        from esm_sae.sequences.download import download

        with metadata.materializing(data) as clock:
            target = data.file(_file_name(source, name))
            product = download(source, target, checksum=checksum or None)
            return metadata.result(product, clock, checks=download_checks(product))

    return [downloaded]


def _file_name(source: str, name: str) -> str:
    return name + "".join(PurePosixPath(urlsplit(source).path).suffixes[-2:])
