import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esm_sae_assets.demo import prepare_instance


@pytest.fixture(scope="session")
def small_environment(small_source):
    """The variables that make the demo's graph small enough for a test."""
    return {
        "ESM_SAE_SOURCE": str(small_source),
        "ESM_SAE_SAMPLES_SMALL_SIZE": "100",
        "ESM_SAE_EMBEDDING_SEQUENCES_PER_SHARD": "50",
        "ESM_SAE_EMBEDDING_RESIDUES_PER_PROTEIN": "4",
        "ESM_SAE_SAE_LATENT_DIM": "32",
        "ESM_SAE_SAE_KS": "2,4",
        "ESM_SAE_SAE_NUM_EPOCHS": "1",
        "ESM_SAE_CLUSTERS_TAXON_MIN_SIZE": "1",
        "ESM_SAE_CLUSTERS_PER_TAXON": "1",
        "ESM_SAE_CLUSTERS_MIN_CLUSTER_SIZE": "3",
    }


@pytest.fixture
def small_project(tmp_path: Path, small_environment: dict[str, str]) -> Path:
    """A project folder with an instance of its own and the graph made small.

    A run takes the daemon seconds: second seeds and the untrained encoder are left out.
    """
    prepare_instance(tmp_path)
    settings = small_environment | {
        "ESM_SAE_DATA_ROOT": str(tmp_path / "data"),
        "ESM_SAE_SAE_REPLICATE": "false",
        "ESM_SAE_SAE_UNTRAINED_BASELINE": "false",
    }
    lines = (f"{name}={value}" for name, value in settings.items())
    with (tmp_path / ".env").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture(params=["desktop", "phone"])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Open a headless Chromium that records its console and its network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    if request.param == "phone":
        metrics = {"width": 390, "height": 844, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    yield session
    session.quit()
