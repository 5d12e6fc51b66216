"""Declarative automation: the other way to have what is missing or outdated made by itself.

Dagster's daemon then requests each asset, partition by partition, once all it is made from is
there. It is off until its sensor is switched on; the schedule and the sensors of this package do
the same with a limit on the shards at once, and one of the two ways is enough.
"""

from collections.abc import Iterable

import dagster as dg

AUTOMATION = "make_what_is_missing"

Asset = dg.AssetsDefinition | dg.AssetSpec


def with_automation(assets: Iterable[Asset]) -> list[Asset]:
    """Return assets with the condition on which automation requests them.

    An asset that no step makes has none.
    """
    condition = _condition()

    def add(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=condition)

    return [
        asset.map_asset_specs(add) if isinstance(asset, dg.AssetsDefinition) else asset
        for asset in assets
    ]


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Build the sensor that requests what meets its condition; off from the start."""
    return dg.AutomationConditionSensorDefinition(
        AUTOMATION,
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        run_tags={"esm_sae/launched_by": AUTOMATION},
        description="Requests what is missing, and what inputs or code have become newer than "
        "since it is on; what was outdated before is for a backfill, and what failed is left to "
        "you. Another way than embed_missing_shards and train_after_embedding, with no limit on "
        "the shards at once; switch on one of the two.",
    )


def _condition() -> dg.AutomationCondition:
    """Missing, or outdated since it was last handled; left alone once a run of it failed.

    Automation sees versions change from one look to the next, not what an output was made from:
    what was outdated at the first look is not requested.

    Not ``eager()`` or ``on_missing()``: they pass over what was missing when the sensor was
    switched on, and an input that was made again with the same bytes counts for them.
    """
    is_ = dg.AutomationCondition
    changed = is_.any_deps_match(is_.data_version_changed()) | is_.code_version_changed()
    handled = is_.newly_requested() | is_.newly_updated() | is_.initial_evaluation()
    return (
        (is_.missing() | changed.since(handled))
        & ~is_.in_progress()
        & ~is_.any_deps_missing()
        & ~is_.any_deps_in_progress()
        & ~is_.execution_failed()
    ).with_label("missing_or_outdated")
