"""What the embeddings show: figures, pictures and progress."""

import importlib.resources
import re
import shutil

import dagster as dg
import pytest
import yaml

from esm_sae import progress
from esm_sae_assets import metadata
from esm_sae_assets.definitions import build_defs

SHARDS = dg.AssetKey("embedding_shards")
SHARD = "0001-of-0002"


@pytest.fixture
def instance():
    """An instance that logs as the template that comes with the package."""
    template = importlib.resources.files("esm_sae_assets") / "instance" / "dagster.yaml"
    logs = yaml.safe_load(template.read_text())["python_logs"]
    level = progress.LOGGER.level
    with dg.DagsterInstance.ephemeral(settings={"python_logs": logs}) as instance:
        yield instance
    progress.LOGGER.setLevel(level)


@pytest.fixture
def embed(small_graph, settings_of, tmp_path, instance):
    """Return a function that embeds a shard of the small graph's sample: its metadata."""

    def run(**chosen):
        settings = settings_of(tmp_path / "data", embedding=chosen)
        settings.root.mkdir(exist_ok=True)
        for path in small_graph[0].root.glob("uniref50_1M_sample*"):
            shutil.copy2(path, settings.root)
        defs = build_defs(settings)
        result = dg.materialize(
            list(defs.assets),
            selection=[SHARDS],
            partition_key=SHARD,
            resources=dict(defs.resources),
            instance=instance,
        )
        events = result.asset_materializations_for_node("embedding_shards")
        (event,) = [event for event in events if event.asset_key == SHARDS]
        return {name: entry.value for name, entry in event.metadata.items()}

    return run


def test_a_shard_shows_its_figures_and_pictures(embed):
    shown = embed(max_length=100)
    assert shown["dagster/row_count"] == shown["rows"] == 100 * 4
    assert (shown["proteins"], shown["width"]) == (100, "256")
    assert shown["truncated"] > 0
    assert (shown["windowed"], shown["skipped"], shown["unknown_letters"]) == (0, 0, 0)
    assert (shown["padding_share"], shown["batch_tokens"]) == (0, 4096)
    assert 0 < shown["norm_min"] <= shown["norm_median"] <= shown["norm_max"]
    assert shown["residues_per_second"] > 0
    assert shown["batches"] > 1
    assert shown["resumed_share"] == 0
    assert shown["peak_memory_mb"] > 1
    for picture in ("map", "lengths"):
        assert shown[picture].startswith("![")
        assert "](data:image/png;base64," in shown[picture]
        assert len(shown[picture]) < 100_000


def test_a_shard_that_is_there_has_no_rate(embed):
    first, again = embed(), embed()
    assert again["unchanged"] is True
    of_this_run = {"residues_per_second", "batches", "resumed_share"}
    assert again.keys() == first.keys() - of_this_run - {"padding_share", "batch_tokens"}
    assert (again["map"], again["lengths"]) == (first["map"], first["lengths"])


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_rows_can_be_proteins(embed, pooling):
    shown = embed(pooling=pooling, max_length=100, long_sequences="window")
    assert shown["dagster/row_count"] == shown["proteins"] == 100
    assert shown["windowed"] > 0


def test_skipped_proteins_have_no_rows(embed):
    shown = embed(max_length=100, long_sequences="skip")
    assert shown["skipped"] > 0
    assert shown["proteins"] == 100 - shown["skipped"]
    assert shown["dagster/row_count"] == shown["proteins"] * 4


def test_progress_with_rate_and_time_left_is_in_the_log_of_the_run(embed, instance, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    embed()
    (run,) = instance.get_runs()
    messages = [entry.user_message for entry in instance.all_logs(run.run_id)]
    lines = [message for message in messages if message.startswith("embedding shard 0001-of-0002")]
    assert len(lines) > 1
    shape = r".*: [\d,]+ of [\d,]+ residues \(\d+%\), [\d,]+ residues/s, [\d,]+ s left"
    assert all(re.fullmatch(shape, line) for line in lines)


def test_the_memory_of_a_gpu_is_shown(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: (7 + device.index) * 1e6)
    assert metadata.peak_device_memory(torch.device("cpu")) == {}
    found = metadata.peak_device_memory(torch.device("cuda:1"))
    assert found == {"peak_device_memory_mb": 8}
