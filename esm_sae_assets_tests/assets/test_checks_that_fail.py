"""Every check on an output of the small graph that was damaged by hand, and what it says."""

import re

import dagster as dg
import pytest

import data_damages
import model_damages
from damaged_outputs import copy_of
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import CheckSettings
from looks import ALIKE, LOOKED

CASES = [*data_damages.CASES, *model_damages.CASES]


@pytest.fixture(scope="module")
def look_at(small_graph):
    """Return a function that looks at an asset's output: each check's result by its name."""
    settings, _, _ = small_graph
    data = DataRoot(root=str(settings.root), latent_dim=settings.sae.latent_dim)

    def results(asset, output):
        found = LOOKED[asset].checks(output.product, data, CheckSettings())
        return {result.check_name: result for result in found}

    return results


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.asset}-{case.check}")
def test_a_damaged_output_does_not_pass(small_graph, look_at, tmp_path, case):
    at = LOOKED[case.asset].at
    output = copy_of(small_graph[0].root / at, tmp_path / at)
    before = look_at(case.asset, output)[case.check]
    case.damage(output)
    failed = look_at(case.asset, output)[case.check]
    assert not failed.passed
    assert failed.description is not None
    assert "\n" not in failed.description
    assert re.search(case.message, failed.description), failed.description
    if failed.severity is dg.AssetCheckSeverity.ERROR:
        assert before.passed, before.description
    else:
        assert failed.metadata, "a warning shows its figures"


def test_each_check_has_a_damage_that_it_finds(small_graph):
    specs = {
        (spec.asset_key.to_user_string(), spec.name)
        for asset in build_defs(small_graph[0]).assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.check_specs
    }
    found = {(case.asset, case.check) for case in CASES} | {("sae_metrics", "fvu_is_no_worse")}
    assert {(ALIKE.get(asset, asset), check) for asset, check in specs} - found == set()
