"""The report in a real browser: it works, says nothing on the console and loads nothing."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysed_runs import MadeUp, write_run
from browsing import click, press, require_fit, require_silence, search, title_has_focus, until
from esm_sae import analyze
from esm_sae.formats.analysis_tables import BY_ROW
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.embedded_clusters import EmbeddedClusters, write_embedded_json
from esm_sae.report import write_report

pytestmark = pytest.mark.slow

LATENTS = 300
NAMES = ("Kinase", "<script>document.title='broken'</script> & Beta-defensin", "Zinc finger")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make all tables of a residue run."""
    like = MadeUp(latents=LATENTS, proteins=90, k=8, encoded=60, names=NAMES)
    return write_run(tmp_path_factory.mktemp("run"), like)


@pytest.fixture(scope="module")
def report(run: dict[str, Path]) -> Path:
    """Write the report of all tables."""
    folder = run["summary"].parent
    return write_report(folder / "r.html", **run, cluster_page=folder / "clusters.html").path


def test_search_sort_and_open(browser: Any, report: Path, run: dict[str, Path]) -> None:
    browser.get(report.as_uri())
    search(browser, "beta-defensin")
    found = _latents(browser)
    assert found
    assert len(found) < LATENTS

    search(browser, "no such protein anywhere")
    assert _latents(browser) == []
    browser.find_element("id", "clear").click()
    click(browser, "[data-sort='latent']")
    assert _latents(browser)[:3] == [0, 1, 2]
    click(browser, "[data-sort='latent']")
    # Clearing goes back to the firing ones, which the last two are not.
    assert _latents(browser)[0] == LATENTS - 3
    assert len(_latents(browser)) < LATENTS - 2
    click(browser, "#more")
    assert len(_latents(browser)) == LATENTS - 2

    click(browser, "[data-sort='proteinDensity']")
    widest = _latents(browser)[0]
    click(browser, "#latents tbody button")
    detail = browser.find_element("id", "detail")
    assert detail.find_element("id", "detail-title").text == f"Latent {widest}"
    summary = pl.read_parquet(run["summary"]).row(widest, named=True)
    assert f"{summary['firing_proteins']} (" in detail.text
    assert NAMES[1] in detail.text
    assert detail.find_elements("css selector", ".sequence .peak")
    for heading in ("Strongest proteins", "Over the whole range", "Taxa", "Concepts"):
        assert heading in detail.text
    for fifth in ("second fifth", "middle fifth", "fourth fifth", "weakest fifth"):
        assert fifth in detail.text
    link = detail.find_element("css selector", ".proteins a")
    assert link.get_attribute("href").startswith("https://www.uniprot.org/uniprotkb/P0")
    assert "noopener" in link.get_attribute("rel")
    marked = detail.find_element("css selector", ".links a").get_attribute("href")
    assert marked == report.with_name("clusters.html").as_uri() + f"#cluster-{widest % 3}"
    require_silence(browser, report)


def test_filters_narrow_the_list(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    for box, passing in (("taxonomic", {0}), ("stable", {0})):
        click(browser, f"#filters input[value='{box}']")
        modulus = {"taxonomic": 7, "stable": 3}[box]
        assert {latent % modulus for latent in _latents(browser)} == passing
    assert _latents(browser)[0] % 21 == 0
    browser.find_element("css selector", "#filters input[value='memory']").send_keys(" ")
    assert set(_latents(browser)) == {0, 231}
    require_silence(browser, report)


def test_keyboard_and_address(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    def title() -> str:
        return browser.find_element("id", "detail-title").text

    browser.get(report.as_uri() + "#latent-7")
    assert title() == "Latent 7"
    assert title_has_focus(browser)
    press(browser, Keys.ARROW_RIGHT)
    # The address decides what is shown, and the browser tells of its change a little later.
    until(browser, lambda: title() != "Latent 7" and title_has_focus(browser))
    press(browser, Keys.ARROW_LEFT)
    until(browser, lambda: title() == "Latent 7" and title_has_focus(browser))
    press(browser, Keys.ESCAPE)
    until(browser, lambda: not browser.find_element("id", "detail").is_displayed())
    press(browser, Keys.ENTER)
    until(browser, lambda: browser.find_element("id", "detail").is_displayed())
    require_silence(browser, report)


def test_back_closes_what_covers_the_list(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    covers = browser.execute_script("return !matchMedia('(min-width: 70rem)').matches")
    click(browser, "#latents tbody button")
    first = browser.find_element("id", "detail-title").text
    browser.execute_script("location.hash = '#latent-7'")
    browser.back()
    until(browser, lambda: browser.find_element("id", "detail-title").text == first)
    browser.back()
    until(browser, lambda: "#" not in browser.current_url)
    until(browser, lambda: browser.find_element("id", "detail").is_displayed() != covers)
    assert browser.execute_script("return document.body.classList.contains('reading')") is False
    browser.forward()
    until(browser, lambda: browser.find_element("id", "detail").is_displayed())
    require_silence(browser, report)


def test_what_another_seed_finds_is_said(browser: Any, report: Path, run: dict[str, Path]) -> None:
    rows = pl.read_parquet(run["activations"] / BY_ROW / "*.parquet")
    nearest = pl.max_horizontal("stability_cosine", "stability_correlation")
    summary = pl.read_parquet(run["summary"]).filter(
        ~pl.col("stable"), pl.col("label").is_not_null()
    )
    for passed, said in ((nearest > 0.7, "found, not one to one"), (nearest <= 0.7, "not found")):
        row = summary.filter(passed).row(0, named=True)
        browser.get("about:blank")
        browser.get(report.as_uri() + f"#latent-{row['latent']}")
        badges = browser.find_element("css selector", ".badges").text
        assert f"another seed: {said}" in badges
        says = browser.find_element("css selector", ".says").text
        told = re.search(r"About ([0-9.]+)% of its firing is above 0.5", says)
        fired = rows.filter(pl.col("latent") == row["latent"])["activation"]
        assert told
        assert float(told[1]) == pytest.approx(100 * (fired > 0.5).mean(), abs=5)
    summary = pl.read_parquet(run["summary"]).filter(pl.col("stable").is_not_null())
    order = summary.sort(
        nearest.cast(pl.Float64).round_sig_figs(4), "latent", descending=[True, False]
    )
    browser.execute_script("document.querySelector('[data-sort=stability]').click()")
    assert _latents(browser)[:5] == order["latent"][:5].to_list()


def test_the_map_is_walked_by_keyboard(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(report.as_uri() + "#latent-7")
    press(browser, Keys.ESCAPE)
    canvas = browser.find_element("id", "map")
    canvas.send_keys(Keys.ARROW_RIGHT)
    canvas.send_keys(Keys.ARROW_UP)
    named = browser.find_element("id", "tip").text.split("\n")[1]
    canvas.send_keys(Keys.ENTER)
    number = named.removeprefix("latent ").split(",")[0]
    until(browser, lambda: browser.find_element("id", "detail-title").text == f"Latent {number}")
    legend = browser.find_element("id", "legend").text
    browser.execute_script(
        "const box = document.getElementById('colour'); box.value = 'cluster';"
        "box.dispatchEvent(new Event('change'))"
    )
    assert browser.execute_script("return document.getElementById('legend').innerText") != legend
    require_silence(browser, report)


# The weights are random.
@pytest.mark.filterwarnings("ignore:.*rows unexplained:UserWarning")
def test_the_report_of_the_command(browser: Any, tmp_path: Path) -> None:
    _write_clusters(tmp_path)
    _write_sae(tmp_path / "L300_k8")
    options = ["--clusters", str(tmp_path / "embedded_clusters.json"), "--quiet"]
    options += ["--checkpoint", str(tmp_path / "L300_k8"), "--output", str(tmp_path / "out")]
    assert analyze.main(options) == 0
    page = tmp_path / "out" / "report.html"
    browser.get(page.as_uri())
    search(browser, "beta-defensin")
    assert _latents(browser)
    click(browser, "#latents tbody button")
    assert "Strongest proteins" in browser.find_element("id", "detail").text
    require_silence(browser, page)


def test_a_silent_latent_says_so(browser: Any, report: Path) -> None:
    browser.get(report.as_uri() + f"#latent-{LATENTS - 1}")
    assert "Silent" in browser.find_element("id", "detail").text
    require_silence(browser, report)


def test_page_fits_the_screen(browser: Any, report: Path) -> None:
    for address in (report.as_uri(), report.as_uri() + "#latent-1"):
        browser.get(address)
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
