"""The built wheel, installed elsewhere, has all it needs and nothing else."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("esm_sae", "esm_sae_assets")

LOAD_DATA = """
import importlib.resources, json
import esm_sae, esm_sae_assets
from esm_sae.data import bundled_clusters, bundled_encoder, bundled_fasta, provenance
from esm_sae.formats.fasta import read_fasta
from esm_sae.split import read_similarity_clusters

assets = importlib.resources.files("esm_sae_assets")
print(json.dumps({
    "modules": [esm_sae.__file__, esm_sae_assets.__file__],
    "data": [str(bundled_fasta()), str(bundled_clusters()), str(bundled_encoder())],
    "encoder_bytes": bundled_encoder().stat().st_size,
    "proteins": sum(1 for record in read_fasta(bundled_fasta())),
    "clustered": len(read_similarity_clusters("bundled")),
    "licence": json.dumps(provenance()),
    "profiles": sorted(file.name for file in (assets / "profiles").iterdir()),
    "instance": (assets / "instance" / "dagster.yaml").read_text(),
}))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that nothing is downloaded.
    _python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=PROJECT)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_packages_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert names == {
        path.relative_to(PROJECT).as_posix()
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_installed_wheel_loads_its_own_data(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    _python("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))

    # PYTHONPATH comes before the site-packages that hold the editable installation.
    loaded = json.loads(_python("-c", LOAD_DATA, cwd=tmp_path, PYTHONPATH=str(target)))

    for path in [*loaded["modules"], *loaded["data"]]:
        assert Path(path).is_relative_to(target)
    assert loaded["clustered"] >= loaded["proteins"] >= 7_000
    assert 5_000_000 < loaded["encoder_bytes"] < 8_000_000
    assert "CC BY 4.0" in loaded["licence"]
    assert loaded["profiles"] == ["demo.toml", "uniref50.toml", "uniref50_residue.toml"]
    assert "granularity: op" in loaded["instance"]


def _python(*arguments: str, cwd: Path | None = None, **variables: str) -> str:
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
