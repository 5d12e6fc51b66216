"""The report in a real browser: it works, says nothing on the console and loads nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae import analyze
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.clusters_json import EmbeddedClusters, encode_embedded

pytestmark = pytest.mark.slow

LATENTS = 300
NAMES = ("Kinase", "<script>document.title='broken'</script> & Beta-defensin", "Zinc finger")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the report of a residue SAE from files alone."""
    folder = tmp_path_factory.mktemp("report")
    _write_clusters(folder)
    _write_sae(folder / "L300_k8")
    options = ["--clusters", str(folder / "embedded_clusters.json"), "--quiet"]
    options += ["--checkpoint", str(folder / "L300_k8"), "--output", str(folder / "out")]
    assert analyze.main(options) == 0
    return folder / "out" / "report.html"


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


def test_search_sort_and_open(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    _search(browser, "beta-defensin")
    found = _latents(browser)
    assert found
    assert len(found) < LATENTS
    assert "<script>" in browser.find_element("id", "latents").text

    _search(browser, "no such protein anywhere")
    assert _latents(browser) == []
    browser.find_element("id", "clear").click()
    _click(browser, "[data-sort='latent']")
    assert _latents(browser)[:3] == [0, 1, 2]
    _click(browser, "[data-sort='latent']")
    assert _latents(browser)[0] == LATENTS - 1
    assert len(_latents(browser)) < LATENTS
    _click(browser, "#more")
    assert len(_latents(browser)) == LATENTS

    _click(browser, "[data-sort='proteinDensity']")
    widest = _latents(browser)[0]
    _click(browser, "#latents tbody button")
    detail = browser.find_element("id", "detail")
    assert detail.find_element("id", "detail-title").text == f"Latent {widest}"
    summary = pl.read_parquet(report.with_name("feature_summary.parquet")).row(widest, named=True)
    assert f"{summary['firing_proteins']} (" in detail.text
    assert len(detail.find_elements("css selector", ".proteins li")) == 10
    assert detail.find_elements("css selector", ".sequence .peak")
    link = detail.find_element("css selector", ".proteins a")
    assert link.get_attribute("href").startswith("https://www.uniprot.org/uniprotkb/P0")
    assert "noopener" in link.get_attribute("rel")
    _require_silence(browser, report)


def test_keyboard_and_address(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(report.as_uri() + "#latent-7")
    title = browser.find_element("id", "detail-title")
    assert title.text == "Latent 7"
    assert browser.switch_to.active_element == title
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    following = browser.find_element("id", "detail-title").text
    assert following != "Latent 7"
    browser.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.find_element("id", "detail").is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.find_element("id", "detail").is_displayed()
    _require_silence(browser, report)


def test_a_silent_latent_says_so(browser: Any, report: Path) -> None:
    browser.get(report.as_uri() + f"#latent-{LATENTS - 1}")
    assert "Silent" in browser.find_element("id", "detail").text
    _require_silence(browser, report)


def test_page_fits_the_screen(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    wide, screen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= screen


def _latents(browser: Any) -> list[int]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#latents tbody tr')].map(r => +r.dataset.latent)"
    )


def _search(browser: Any, text: str) -> None:
    box = browser.find_element("id", "search")
    box.clear()
    box.send_keys(text)


def _click(browser: Any, selector: str) -> None:
    found = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    found.click()


def _require_silence(browser: Any, report: Path) -> None:
    assert browser.get_log("browser") == []
    requested = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requested.add(message["params"]["request"]["url"].split("#")[0])
    # The browser's own first tab asks for chrome: addresses.
    fetched = {url for url in requested if not url.startswith(("data:", "chrome:"))}
    assert fetched == {report.as_uri()}
    assert browser.title.endswith("feature report")


def _write_clusters(folder: Path) -> None:
    generator = np.random.default_rng(0)
    taxa, sequences, headers, rows, matrices = [], [], [], [], []
    for number in range(60):
        length = int(generator.integers(30, 60))
        taxa.append(f"Taxon {number // 20}")
        sequences.append("".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)))
        headers.append(f"tr|P{number:05d}|P_TEST {NAMES[number % 3]} OS={taxa[-1]}")
        matrices.append(generator.standard_normal((length, 8)).astype(np.float32))
        matrices[-1][:, number % 3] += 2
        rows += [(number, taxa[-1], headers[-1], at) for at in range(1, length + 1)]
    means = np.stack([matrix.mean(axis=0) for matrix in matrices])
    clusters = EmbeddedClusters(taxa, sequences, headers, means)
    (folder / "embedded_clusters.json").write_bytes(encode_embedded(clusters))
    np.save(folder / "embedded_clusters.residues.npy", np.concatenate(matrices))
    table = pl.DataFrame(rows, schema=["protein", "taxon", "header", "position"], orient="row")
    table.write_parquet(folder / "embedded_clusters.residues.parquet")


def _write_sae(folder: Path) -> None:
    generator = np.random.default_rng(1)
    kernel = generator.standard_normal((8, LATENTS)).astype(np.float32)
    kernel[:, -1] = 0
    write_checkpoint(
        folder / "checkpoint_epoch_1.npy",
        encoder=kernel,
        decoder=kernel.T,
        latent_bias=np.zeros(LATENTS),
        pre_bias=np.zeros(8),
    )
    write_config(folder, SAEConfig(8, LATENTS, 8, pooling="residue", encoder="esmc_test", layer=3))
