"""Autoencoders of several k in one run, on the rows of the small graph."""

import shutil

import dagster as dg
import numpy as np
import pytest

from esm_sae import sae
from esm_sae.errors import InputError
from esm_sae.formats.manifest import read_manifest
from esm_sae.sae import load_checkpoint
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.progress.currency import Target, is_current

CHECKPOINT, REPLICATE = dg.AssetKey("sae_checkpoint"), dg.AssetKey("sae_replicate")
BOTH = {
    "dagster/asset_partition_range_start": "4",
    "dagster/asset_partition_range_end": "8",
}


@pytest.fixture
def settings(small_graph, settings_of, tmp_path):
    """Settings with a data root that has the rows and no autoencoder."""
    settings = settings_of(tmp_path / "data")
    shutil.copytree(small_graph[0].root / "embeddings3", settings.root / "embeddings3")
    return settings


@pytest.fixture
def train(settings):
    """Return a function that trains: whether the run succeeded, and the event of each partition."""
    defs = build_defs(settings)
    with dg.DagsterInstance.ephemeral() as instance:

        def run(key=CHECKPOINT, partition=None, **tags):
            result = dg.materialize(
                list(defs.assets),
                selection=[key],
                partition_key=partition,
                tags=tags,
                resources=dict(defs.resources),
                instance=instance,
                raise_on_error=False,
            )
            events = result.asset_materializations_for_node(key.to_user_string())
            return result, {event.partition: event for event in events}

        run.instance = instance
        yield run


def test_a_range_is_trained_in_one_run_and_each_k_shows_its_own(settings, train):
    result, made = train(**BOTH)
    assert result.success
    assert made.keys() == {"4", "8"}
    versions = set()
    for k, event in made.items():
        manifest = read_manifest(settings.root / f"L64_k{k}")
        assert event.tags["dagster/data_version"] == manifest.data_version
        versions.add(manifest.data_version)
        shown = {name: entry.value for name, entry in event.metadata.items()}
        assert manifest.summary.keys() - {"project"} <= shown.keys()
        assert (shown["k"], shown["trained_together"], shown["seed"]) == (k, "4, 8", "0")
        assert shown["samples_per_second"] > 0
        assert shown["training"].startswith("![training](data:image/png;base64,")
        assert shown["path"] == str(settings.root / f"L64_k{k}")
    assert len(versions) == 2


def test_the_weights_are_those_of_a_k_trained_alone(settings, train):
    weights = settings.root / "L64_k8" / "checkpoint_epoch_2.npy"
    train(**BOTH)
    together = weights.read_bytes()
    shutil.rmtree(weights.parent)
    _, made = train(partition="8")
    assert weights.read_bytes() == together
    assert made["8"].metadata["trained_together"].value == "8"


def test_a_k_that_fails_leaves_the_others_and_is_rerun_alone(settings, train, monkeypatch):
    real = sae.train_saes

    def train_saes(shards, outputs, options, **chosen):
        yield from real(shards, {4: outputs[4]}, options, **chosen)
        raise InputError(f"{outputs[8]}: the loss became nan by step 50")

    with monkeypatch.context() as patched:
        patched.setattr(sae, "train_saes", train_saes, raising=False)
        result, made = train(**BOTH)
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "L64_k8: the loss became nan by step 50" in failure.step_failure_data.error.message
    assert made.keys() == {"4"}
    assert _status(settings, train.instance) == {"4": "MATERIALIZED", "8": "FAILED"}
    assert (settings.root / "L64_k4" / "checkpoint_epoch_2.npy").is_file()

    result, made = train(partition="8")
    assert result.success
    assert made.keys() == {"8"}
    assert _status(settings, train.instance) == {"4": "MATERIALIZED", "8": "MATERIALIZED"}


def test_a_replicate_differs_in_its_seed_alone(settings, train):
    train(partition="4")
    _, made = train(REPLICATE, partition="4")
    assert made["4"].metadata["seed"].value == "1"
    one = load_checkpoint(settings.root / "L64_k4")
    other = load_checkpoint(settings.root / "L64_k4_replicate")
    assert (one.config.seed, other.config.seed) == (0, 1)
    assert one.config.training == other.config.training
    rows = np.eye(one.config.width, dtype=np.float32)
    assert not np.allclose(one.encode(rows), other.encode(rows))


def test_the_demo_trains_in_one_run_what_is_missing(small_graph):
    settings, instance, _ = small_graph
    for name, runs in {"sae_checkpoint": 1, "sae_untrained": 1, "sae_metrics": 2}.items():
        key = dg.AssetKey(name)
        made = instance.fetch_materializations(key, limit=2, ascending=True).records
        assert {record.partition_key for record in made} == {"4", "8"}
        assert len({record.run_id for record in made}) == runs, name
    graph = build_defs(settings).resolve_asset_graph()
    assert is_current(Target(CHECKPOINT, "8"), graph, instance)


def _status(settings, instance):
    partitions = build_defs(settings).resolve_asset_graph().get(CHECKPOINT).partitions_def
    keys = partitions.get_partition_keys()
    found = instance.get_status_by_partition(CHECKPOINT, keys, partitions)
    return {key: found[key].value if found[key] else None for key in keys}


def test_trackers_follow_a_training_beside_its_outputs(settings, train):
    tracked = build_defs(settings.model_copy(update={"tracking": ("tensorboard",)}))
    result = dg.materialize(
        list(tracked.assets),
        selection=[REPLICATE],
        partition_key="4",
        resources=dict(tracked.resources),
        instance=train.instance,
    )
    assert result.success
    (file,) = settings.root.glob("tracking/tensorboard/*/*/*/*.tfevents.*")
    assert file.parent.parent.name == "L64_k4_replicate"
    # Without a tracker the same training has nothing to do.
    before = (settings.root / "L64_k4_replicate" / "manifest.json").read_bytes()
    result, made = train(REPLICATE, "4")
    assert result.success
    assert "samples_per_second" not in made["4"].metadata
    assert (settings.root / "L64_k4_replicate" / "manifest.json").read_bytes() == before
