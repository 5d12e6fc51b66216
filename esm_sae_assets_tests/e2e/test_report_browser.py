"""The report in a real browser: it works, says nothing on the console and loads nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from browsing import click, require_fit, require_silence, search
from esm_sae import analyze
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.embedded_clusters import EmbeddedClusters, write_embedded_json

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


def test_search_sort_and_open(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    search(browser, "beta-defensin")
    found = _latents(browser)
    assert found
    assert len(found) < LATENTS
    assert "<script>" in browser.find_element("id", "latents").text

    search(browser, "no such protein anywhere")
    assert _latents(browser) == []
    browser.find_element("id", "clear").click()
    click(browser, "[data-sort='latent']")
    assert _latents(browser)[:3] == [0, 1, 2]
    click(browser, "[data-sort='latent']")
    assert _latents(browser)[0] == LATENTS - 1
    assert len(_latents(browser)) < LATENTS
    click(browser, "#more")
    assert len(_latents(browser)) == LATENTS

    click(browser, "[data-sort='proteinDensity']")
    widest = _latents(browser)[0]
    click(browser, "#latents tbody button")
    detail = browser.find_element("id", "detail")
    assert detail.find_element("id", "detail-title").text == f"Latent {widest}"
    summary = pl.read_parquet(report.with_name("feature_summary.parquet")).row(widest, named=True)
    assert f"{summary['firing_proteins']} (" in detail.text
    assert len(detail.find_elements("css selector", ".proteins li")) == 10
    assert detail.find_elements("css selector", ".sequence .peak")
    link = detail.find_element("css selector", ".proteins a")
    assert link.get_attribute("href").startswith("https://www.uniprot.org/uniprotkb/P0")
    assert "noopener" in link.get_attribute("rel")
    require_silence(browser, report)


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
    require_silence(browser, report)


def test_a_silent_latent_says_so(browser: Any, report: Path) -> None:
    browser.get(report.as_uri() + f"#latent-{LATENTS - 1}")
    assert "Silent" in browser.find_element("id", "detail").text
    require_silence(browser, report)


def test_page_fits_the_screen(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    require_fit(browser)


def _latents(browser: Any) -> list[int]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#latents tbody tr')].map(r => +r.dataset.latent)"
    )


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
    write_embedded_json(folder / "embedded_clusters.json", clusters)
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
