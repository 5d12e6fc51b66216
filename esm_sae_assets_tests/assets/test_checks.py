"""What the checks show, and that none hides what another found."""

import json
import shutil
from typing import NamedTuple

import dagster as dg
import pytest

from damaged_outputs import copy_of
from esm_sae.errors import InputError
from esm_sae.formats.verification import product_at
from esm_sae_assets.checks import Check, Found, at_each, look, look_at_each
from esm_sae_assets.checks import sae as sae_checks
from esm_sae_assets.checks.history import last_other_figures
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import CheckSettings, load_settings

METRICS = dg.AssetKey("sae_metrics")
LIMITS = CheckSettings()
SOUND, GOOD = Check("sound", "It is."), Check("good", "It is.", warns=True)


class Figures(NamedTuple):
    rows: int
    share: float


def test_every_asset_has_a_check_that_says_what_holds():
    settings = load_settings(
        {},
        sae={"replicate": True, "untrained_baseline": True},
        clusters={
            "taxonomy": "https://example.org/taxdump.tar.gz",
            "organism": "representative",
            "species_list": "https://example.org/speclist.txt",
        },
    )
    assets = [
        each for each in build_defs(settings).assets or [] if isinstance(each, dg.AssetsDefinition)
    ]
    assert {"taxonomy", "species_list", "sae_untrained"} <= {each.key.path[-1] for each in assets}
    for asset in assets:
        specs = list(asset.check_specs)
        assert specs, asset.key
        for spec in specs:
            assert spec.partitions_def is None
            assert spec.description is not None
            assert spec.description.endswith(".")


def test_the_sound_graph_passes_and_shows_figures(small_graph):
    settings, instance, _ = small_graph
    looked_at_each_k = set()
    for asset in build_defs(settings).assets or []:
        for spec in asset.check_specs if isinstance(asset, dg.AssetsDefinition) else ():
            found = _evaluation(instance, spec.key)
            assert found.metadata, spec.key
            if found.severity is dg.AssetCheckSeverity.ERROR:
                assert found.passed, (spec.key, found.description)
            assert found.passed == (not found.description)
            if "looked_at" in found.metadata:
                looked_at_each_k.add(found.metadata["looked_at"].value)
    assert looked_at_each_k == {"k = 4, 8", "shard = 0001-of-0002"}


def test_the_figures_are_those_of_the_output(small_graph):
    settings, instance, _ = small_graph
    complete = _shown(instance, "embedding_manifest", "shards_are_complete")
    assert (complete["shards"], complete["files"]) == (settings.shard_count, 4 * 2)
    assert complete["rows"] == complete["index_rows"] == 200 * 4
    metrics = json.loads((settings.root / "L64_k8/metrics/metrics.json").read_bytes())
    beaten = _shown(instance, "sae_metrics", "baselines_are_beaten")
    assert beaten["fvu at k = 8"] == pytest.approx(metrics["fvu"], rel=1e-5)
    sound = _evaluation(instance, dg.AssetCheckKey(METRICS, "metrics_are_sound"))
    table = sound.metadata["figures"]
    assert [row.data["k"] for row in table.records] == ["4", "8"]
    assert [column.name for column in table.schema.columns][:3] == ["k", "passed", "test_rows"]
    assert table.records[1].data["test_rows"] == str(metrics["test_rows"])


def test_an_output_that_does_not_pass_is_described():
    def refuse():
        raise InputError("x.npy: rows are zero: P7")

    failed = look(SOUND, refuse, shard="3")
    assert (failed.passed, failed.description) == (False, "x.npy: rows are zero: P7")
    assert failed.severity is dg.AssetCheckSeverity.ERROR
    assert failed.metadata["shard"].value == "3"
    passed = look(SOUND, lambda: Figures(5, 1 / 3), shard="3")
    assert passed.passed
    assert (passed.metadata["rows"].value, passed.metadata["share"].value) == (5, 0.333333)
    poor = look(GOOD, lambda: Found({"share": 0.9}, "too much; take less"))
    assert (poor.passed, poor.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (poor.description, poor.metadata["share"].value) == ("too much; take less", 0.9)


def test_a_look_that_breaks_does_not_break_the_step():
    def broken():
        return Figures(1, {}["no such\nkey"])

    failed = look(SOUND, broken)
    assert not failed.passed
    assert failed.description == "cannot be looked at (KeyError: 'no such\\nkey')"


def test_of_several_outputs_the_one_that_fails_is_named(small_graph, tmp_path):
    root = small_graph[0].root
    shutil.copytree(root / "L64_k4/metrics", tmp_path / "4")
    places = at_each([4, 16], lambda k: tmp_path / str(k))
    passed = look_at_each(GOOD, lambda product: Found({"files": 1}), places, of="k")
    assert passed.passed
    assert passed.metadata["looked_at"].value == "k = 4"
    (tmp_path / "16").mkdir()
    (tmp_path / "16" / "manifest.json").write_text("{")
    failed = look_at_each(SOUND, lambda product: Figures(2, 0.5), places, of="k")
    assert not failed.passed
    assert failed.description.startswith(f"k = 16: {tmp_path}/16/manifest.json: not valid JSON")
    rows = [record.data for record in failed.metadata["figures"].records]
    assert rows == [
        {"k": "4", "passed": "True", "rows": "2", "share": "0.5"},
        {"k": "16", "passed": "False", "rows": "-", "share": "-"},
    ]


def test_a_k_that_passes_later_does_not_hide_one_that_failed(small_graph, settings_of, tmp_path):
    settings = settings_of(tmp_path / "data")
    for name in ("L64_k4", "L64_k8", "L64_k4_untrained", "L64_k8_untrained"):
        shutil.copytree(small_graph[0].root / name, settings.root / name)
    for name in ("embeddings3", "embeddings_untrained"):
        shutil.copytree(small_graph[0].root / name, settings.root / name)
    (settings.root / "L64_k4/metrics/latents.parquet").write_bytes(b"PAR1")
    defs = build_defs(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            list(defs.assets or []),
            selection=[METRICS],
            partition_key="8",
            resources=dict(defs.resources or {}),
            instance=instance,
        )
        assert result.success
        (made,) = result.asset_materializations_for_node("sae_metrics")
        before = last_other_figures(
            instance, "sae_metrics", "8", product_at(tmp_path / "data/L64_k4")
        )
        found = _evaluation(instance, dg.AssetCheckKey(METRICS, "metrics_are_sound"))
    assert not found.passed
    assert found.description.startswith("k = 4: ")
    assert "latents.parquet: has 4 bytes, the manifest says" in found.description
    assert found.metadata["looked_at"].value == "k = 4, 8"
    # What the check of the next output reads of this one.
    summary = product_at(settings.root / "L64_k8/metrics").manifest.summary
    assert before["fvu"] == made.metadata["fvu"].value == pytest.approx(summary["fvu"], rel=1e-5)
    assert before["encoder"] == summary["encoder"]
    assert str(before["latent_dim"]) == str(summary["latent_dim"])


@pytest.fixture
def measure(small_graph, tmp_path):
    """Return a function that records an FVU at k = 4, if another output, and looks at it."""
    output = copy_of(small_graph[0].root / "L64_k4/metrics", tmp_path / "metrics")
    with dg.DagsterInstance.ephemeral() as instance:

        def run(fvu, limits=LIMITS, **figures):
            output.change_json("metrics.json", lambda content: content.update(fvu=fvu))
            output.change_summary(fvu=fvu, **figures)
            places = at_each([4], lambda k: output.path)
            results = sae_checks.metrics_checks(places, instance, limits)
            product = product_at(output.path)
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    METRICS,
                    partition="4",
                    metadata=dict(product.manifest.summary.items()) | {"fvu": fvu},
                    tags={"dagster/data_version": product.manifest.data_version},
                )
            )
            (risen,) = (one for one in results if one.check_name == "fvu_is_no_worse")
            shown = {name: entry.value for name, entry in risen.metadata.items()}
            return risen.passed, risen.description, shown.get("before at k = 4")

        yield run


def test_an_fvu_that_rises_is_told_until_it_falls_again(measure):
    assert measure(0.5) == (True, None, "none: this is the first")
    assert measure(0.54) == (True, None, 0.5)
    passed, message, before = measure(0.7)
    assert (passed, before) == (False, 0.54)
    assert message.startswith("k = 4: the FVU rose from 0.54 to 0.7, by more than 10%; look at")
    # A rerun that changes nothing makes it no better.
    assert measure(0.7)[0] is False
    assert measure(0.7, CheckSettings(fvu_rise=0.5)) == (True, None, 0.54)
    assert measure(0.51) == (True, None, 0.7)


def test_the_fvu_of_another_encoder_is_not_compared(measure):
    measure(0.5)
    shown = measure(0.9, encoder="another")
    assert shown == (True, None, "another encoder or width: not comparable")


def test_the_settings_say_from_when_on_a_check_warns(small_graph):
    metrics = at_each([4], lambda k: small_graph[0].root / "L64_k4")
    strict = load_settings({"ESM_SAE_CHECKS_DEAD_SHARE": "0"}).checks
    sound, alive = sae_checks.training_checks(metrics, strict)
    assert sound.passed
    assert not alive.passed
    assert "more than 0%" in alive.description
    assert alive.metadata["dead_share at k = 4"].value > 0
    _, alive = sae_checks.training_checks(metrics, CheckSettings(dead_share=1))
    assert alive.passed


def test_no_output_depends_on_what_the_checks_expect():
    def versions(**chosen):
        assets = build_defs(load_settings({}, checks=chosen)).assets or []
        return [
            each.code_versions_by_key for each in assets if isinstance(each, dg.AssetsDefinition)
        ]

    assert versions() == versions(dead_share=0.9, fvu_rise=2.0)


def _shown(instance, asset, check):
    found = _evaluation(instance, dg.AssetCheckKey(dg.AssetKey(asset), check))
    return {name: entry.value for name, entry in found.metadata.items()}


def _evaluation(instance, key):
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    return record.event.dagster_event.asset_check_evaluation_data
