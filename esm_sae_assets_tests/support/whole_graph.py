"""The whole graph run in process, and whether it ended well."""

import dagster as dg

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.demo import run_graph
from esm_sae_assets.progress.currency import is_current, targets_in_order
from esm_sae_assets.settings import Settings


def require_whole_graph(settings: Settings) -> None:
    """Materialise every asset; all must then be current, and pass the checks that are errors."""
    graph = build_defs(settings).resolve_asset_graph()
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = run_graph(settings, instance)
        targets = targets_in_order(graph)
        assert outcome.materialised == len(targets)
        assert all(is_current(target, graph, instance) for target in targets)
        for key in graph.asset_check_keys:
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
            found = record.event.dagster_event.event_specific_data
            if found.severity is dg.AssetCheckSeverity.ERROR:
                assert found.passed, (key, found.description)
