"""The whole graph as a backfill through a real `dagster dev`: code server, webserver, daemon."""

import pytest

from dagster_dev import dagster_dev, launch_backfill, wait_for_backfill

pytestmark = pytest.mark.slow

NODES = "{ assetNodes { assetKey { path } isMaterializable partitionKeys } }"
MATERIALISED = """
{ assetNodes { assetKey { path } assetMaterializations(limit: 100) { partition } } }"""


def test_a_backfill_over_all_assets_materialises_the_whole_graph(small_project):
    with dagster_dev(small_project) as ask:
        nodes = [node for node in ask(NODES)["assetNodes"] if node["isMaterializable"]]
        assert len(nodes) == 25
        backfill = launch_backfill(ask, [node["assetKey"]["path"][0] for node in nodes])
        assert wait_for_backfill(ask, backfill) == "COMPLETED_SUCCESS"
        found = {str(node["assetKey"]): node for node in ask(MATERIALISED)["assetNodes"]}
        for node in nodes:
            events = found[str(node["assetKey"])]["assetMaterializations"]
            made = {event["partition"] for event in events}
            assert made == (set(node["partitionKeys"]) or {None}), node["assetKey"]
    assert (small_project / "data/analysis/L32_k4/report.html").is_file()
    assert (small_project / "data/embedding_clusters.html").is_file()
