"""The report of clusters in a real browser: map, table and keyboard work, and nothing is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browsing import click, press, require_fit, require_silence, search, title_has_focus, until
from described_clusters import write_table
from esm_sae.clusters import describe_clusters
from esm_sae.report import write_cluster_report

pytestmark = pytest.mark.slow

CLUSTERS, MEMBERS = 200, 4
NAMES = ("Kinase", "<script>document.title='broken'</script> & Beta-defensin", "Zinc finger")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the report of 200 clusters, each of one name, and as many proteins of noise."""
    folder = tmp_path_factory.mktemp("clusters")
    generator = np.random.default_rng(0)
    clusters = [*np.repeat(np.arange(CLUSTERS), MEMBERS).tolist(), *[-1] * CLUSTERS]
    headers = [
        f"tr|P{row:05d}|P_TEST {NAMES[cluster % 3]} s{cluster} OS=Taxon {row % 7}"
        for row, cluster in enumerate(clusters)
    ]
    points = generator.normal(size=(CLUSTERS, 3))[clusters]
    points += generator.normal(size=points.shape) / 50
    points[-CLUSTERS:] += 9
    table = write_table(folder, headers, clusters, points)
    summary = describe_clusters(table, folder / "summary.parquet").path
    return write_cluster_report(folder / "r.html", summary=summary, table=table).path


def test_search_sort_and_open(browser: Any, report: Path) -> None:
    browser.get(report.as_uri())
    assert _title(browser) in ("", "Cluster 0: s0")
    search(browser, "beta-defensin")
    found = _listed(browser)
    assert found == [cluster for cluster in range(CLUSTERS) if cluster % 3 == 1]
    search(browser, "no such protein anywhere")
    assert _listed(browser) == []
    browser.find_element("id", "clear").click()
    click(browser, "[data-sort='cluster']")
    assert _listed(browser)[:3] == [0, 1, 2]
    click(browser, "[data-sort='cluster']")
    assert _listed(browser)[0] == CLUSTERS - 1
    assert len(_listed(browser)) < CLUSTERS
    click(browser, "#more")
    assert len(_listed(browser)) == CLUSTERS
    search(browser, "1")
    click(browser, "#clusters tbody button")
    detail = browser.find_element("id", "detail")
    assert _title(browser) == "Cluster 1: s1"
    assert "<script>" in detail.text
    assert len(detail.find_elements("css selector", ".proteins li")) == MEMBERS
    link = detail.find_element("css selector", ".medoid a")
    assert link.get_attribute("href").startswith("https://www.uniprot.org/uniprotkb/P0000")
    assert "noopener" in link.get_attribute("rel")
    require_silence(browser, report)


def test_the_map_names_a_protein_and_selects_its_cluster(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get(report.as_uri() + "#cluster-3")
    _close(browser)
    click(browser, "#zoom button")
    browser.execute_script("document.getElementById('map').scrollIntoView({block: 'center'})")
    canvas = browser.find_element("id", "map")
    hits = set()
    for right in range(-150, 151, 10):
        # On the phone this is a tap, of which the second on one dot opens its cluster.
        at_dot = ActionChains(browser).move_to_element_with_offset(canvas, right, 40)
        at_dot.perform()
        hits.add(_tip(browser))
        at_dot.click().perform()
        hits.add(_tip(browser))
        if not _title(browser):
            at_dot.click().perform()
        if _title(browser):
            break
    assert any(hit.startswith("cluster ") for hit in hits)
    assert f"Cluster {browser.current_url.split('-')[-1]}:" in _title(browser)
    require_silence(browser, report)


def test_keyboard_and_address(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.get(report.as_uri() + "#cluster-7")
    assert title_has_focus(browser)
    press(browser, Keys.ARROW_RIGHT)
    until(browser, lambda: _title(browser) == "Cluster 8: s8" and title_has_focus(browser))
    press(browser, Keys.ARROW_LEFT)
    until(browser, lambda: _title(browser) == "Cluster 7: s7" and title_has_focus(browser))
    press(browser, Keys.ESCAPE)
    until(browser, lambda: not browser.find_element("id", "detail").is_displayed())
    press(browser, Keys.ENTER)
    until(browser, lambda: _title(browser) == "Cluster 7: s7")
    require_silence(browser, report)


def test_page_fits_the_screen(browser: Any, report: Path) -> None:
    for address in (report.as_uri(), report.as_uri() + "#cluster-1"):
        browser.get(address)
        require_fit(browser)


def _title(browser: Any) -> str:
    found = browser.find_elements("id", "detail-title")
    return found[0].text if found and found[0].is_displayed() else ""


def _tip(browser: Any) -> str:
    return browser.find_element("id", "tip").text.split("\n")[-1]


def _close(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(browser, Keys.ESCAPE)


def _listed(browser: Any) -> list[int]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#clusters tbody tr')].map(r => +r.dataset.cluster)"
    )
