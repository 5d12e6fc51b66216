"""The whole graph as a backfill through a real `dagster dev`: code server, webserver, daemon."""

import pytest

from dagster_dev import dagster_dev, launch_backfill, wait_for_backfill

pytestmark = pytest.mark.slow

MATERIALISED = """
{ assetNodes { assetKey { path } assetMaterializations(limit: 100) { partition } } }"""


def test_a_backfill_over_all_assets_materialises_the_whole_graph(small_project):
    with dagster_dev(small_project) as ask:
        nodes = ask("{ assetNodes { assetKey { path } partitionKeys } }")["assetNodes"]
        assert len(nodes) == 23
        backfill = launch_backfill(ask, [node["assetKey"]["path"][0] for node in nodes])
        assert wait_for_backfill(ask, backfill) == "COMPLETED_SUCCESS"
        for node in ask(MATERIALISED)["assetNodes"]:
            wanted = next(n for n in nodes if n["assetKey"] == node["assetKey"])["partitionKeys"]
            made = {event["partition"] for event in node["assetMaterializations"]}
            assert made == (set(wanted) or {None}), node["assetKey"]
    assert (small_project / "data/analysis/L32_k4/report.html").is_file()
    assert (small_project / "data/embedding_clusters.html").is_file()
