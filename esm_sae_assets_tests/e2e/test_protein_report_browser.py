"""The page of one's own proteins in a real browser: search, open, colour, and nothing is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing import click, press, require_fit, require_silence, search, title_has_focus, until
from esm_sae.analysis import describe_proteins
from esm_sae.report import write_protein_report
from own_proteins import (
    RESIDUES,
    write_activations,
    write_annotations,
    write_concepts,
    write_summary,
)

pytestmark = pytest.mark.slow

PROTEINS = 200
NAMES = ("Kinase", "<script>document.title='broken'</script> & Beta-defensin", "Zinc finger")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the page of 200 proteins, all candidates for a concept or bearers of it."""
    folder = tmp_path_factory.mktemp("proteins")
    generator = np.random.default_rng(0)
    proteins = [
        (
            f"tr|P{number:05d}|P_TEST {NAMES[number % 3]} p{number} OS=Taxon {number % 7}",
            "W" + "".join(generator.choice(list(RESIDUES), 20 + number)),
        )
        for number in range(PROTEINS)
    ]
    own = write_activations(folder / "own", proteins)
    described = describe_proteins(
        own,
        folder / "described",
        reference=write_activations(folder / "reference", proteins[:20]),
        summary=write_summary(folder / "summary.parquet", {0: ("a name", 0.9)}),
        concepts=write_concepts(folder / "concepts", [{"concept": "kinase"}]),
        annotations=write_annotations(
            folder / "annotations.parquet",
            [("name", "kinase", f"tr|P{number:05d}|P_TEST") for number in range(10, PROTEINS)],
        ),
    )
    return write_protein_report(folder / "r.html", described=described.path, activations=own).path


def test_search_filter_and_open(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    search(browser, "beta-defensin")
    assert _listed(browser) == [number for number in range(PROTEINS) if number % 3 == 1]
    search(browser, "no such protein anywhere")
    assert _listed(browser) == []
    browser.find_element("id", "clear").click()
    click(browser, "#show option[value='candidates']")
    assert _listed(browser) == list(range(10))
    click(browser, "[data-sort='nameOrder']")
    names = browser.execute_script(
        "return [...document.querySelectorAll('#proteins tbody b')].map(name => name.textContent)"
    )
    assert names == sorted(names)
    click(browser, "#candidate-rows a")
    detail = browser.find_element("id", "detail")
    assert "Candidate for kinase" in detail.text
    assert _title(browser).endswith("p0")
    require_silence(browser, report)


def test_a_latent_colours_the_residues_it_fires_on(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(report.as_uri() + "#protein-5")
    picks = browser.find_elements("css selector", ".pick")
    coloured = set()
    for pick in picks:
        pick.send_keys(Keys.ENTER)
        assert pick.get_attribute("aria-pressed") == "true"
        letters = browser.execute_script(
            "return [...document.querySelectorAll('.whole .on')].map(span => span.textContent)"
        )
        latent = int(pick.find_element("css selector", "b").text.split()[1])
        fires = "WY" if latent == 5 else RESIDUES[latent::5]
        assert set(letters) <= set(fires)
        assert letters
        coloured.add(latent)
    assert len(coloured) == len(picks) > 2
    pressed = browser.find_elements("css selector", ".pick[aria-pressed='true']")
    assert len(pressed) == 1
    require_silence(browser, report)


def test_keyboard_and_address(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(report.as_uri() + "#protein-8")
    assert title_has_focus(browser)
    press(browser, Keys.ARROW_RIGHT)
    until(browser, lambda: _title(browser).endswith("p8") and title_has_focus(browser))
    press(browser, Keys.ESCAPE)
    until(browser, lambda: not browser.find_element("id", "detail").is_displayed())
    require_silence(browser, report)


def test_proteins_are_numbered_from_one(browser: Any, report: Path) -> None:
    browser.get(report.as_uri() + "#protein-1")
    assert _title(browser).endswith("p0")
    numbers = browser.execute_script(
        "return [...document.querySelectorAll('#proteins tbody button')].map(b => b.textContent)"
    )
    assert numbers[:3] == ["1", "2", "3"]
    search(browser, "17")
    assert _listed(browser)[0] == 16
    link = browser.find_element("css selector", "#candidate-rows a")
    assert link.get_attribute("href").endswith("#protein-1")
    for outside in ("#protein-0", "#protein-201"):
        browser.get("about:blank")
        browser.get(report.as_uri() + outside)
        assert browser.switch_to.active_element.tag_name == "body"
    require_silence(browser, report)


def test_page_fits_the_screen(browser: Any, report: Path) -> None:
    for address in (report.as_uri(), report.as_uri() + "#protein-200"):
        browser.get(address)
        require_fit(browser)


def _title(browser: Any) -> str:
    return browser.find_element("id", "detail-title").text


def _listed(browser: Any) -> list[int]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#proteins tbody tr')].map(r => +r.dataset.protein)"
    )
