"""Trackers of a training: they show its record row by row, and change nothing of it."""

import importlib.util
import json
import logging
import os
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from esm_sae.errors import InputError
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, train_sae, train_saes, training_run
from esm_sae.tracking import (
    TRACKERS,
    TrackedRun,
    Trackers,
    Tracking,
    require_trackers,
    wandb_run,
)
from esm_sae.train import main

OPTIONS = TrainOptions(16, 3, batch_size=32, num_epochs=3, learning_rate=1e-2)
KEY = "f" * 40


@pytest.fixture
def shards(make_shards):
    """About 80 training rows of 8 numbers: two steps and a short tail per epoch."""
    folder, _ = make_shards(proteins=100, width=8, count=3)
    return open_shards(folder)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    # It reads its variables once, and ends its writing behind what asked for it, or with it.
    wandb.teardown()


@pytest.fixture
def saving_always(monkeypatch):
    """Save at every row of the record, which are otherwise a minute apart, and every step."""
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training_run, "_STEPS_PER_ROW", 1)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def record_of(folder):
    """Return {figure: [(step, value), ...]} of ``metrics.parquet``, without what is null."""
    table = pl.read_parquet(folder / "metrics.parquet")
    return {
        name: [(s, v) for s, v in zip(table["step"], table[name], strict=True) if v is not None]
        for name in table.columns
        if name != "step"
    }


def read_events(folder):
    """Return what TensorBoard itself reads, as ``record_of``, and its texts."""
    events = EventAccumulator(os.fspath(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[0].tensor_proto.string_val[0]
        for tag in tags["tensors"]
    }
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]
    }
    return scalars, {tag: json.loads(text) for tag, text in texts.items()}


def read_wandb(path):
    """Return what a run's file holds, as ``record_of``, its config, summary and first record."""
    wandb.teardown()
    store, scalars, config, summary, about = DataStore(), {}, {}, {}, None
    store.open_for_scan(os.fspath(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record.FromString(bytes(data))
        match record.WhichOneof("record_type"):
            case "run":
                about = record.run
                config |= {item.key: json.loads(item.value_json) for item in about.config.update}
            case "history":
                row = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                step = row.pop("_step")
                for name, value in row.items():
                    if not name.startswith("_"):
                        scalars.setdefault(name, []).append((step, value))
            case "summary":
                for item in record.summary.update:
                    name = "/".join(item.nested_key) or item.key
                    summary[name] = json.loads(item.value_json)
    store.close()
    return scalars, config, summary, about


def warnings_in(caplog):
    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.getMessage() for record in found if record.name == "esm_sae"]


def the_events(tracking):
    (folder,) = {path.parent for path in tracking.rglob("*.tfevents.*")}
    return folder


def the_wandb_file(tracking):
    (path,) = tracking.glob("wandb/offline-run-*/*.wandb")
    return path


def require_same(shown, record):
    assert shown.keys() == record.keys()
    for name, values in record.items():
        # TensorBoard's scalars are float32.
        np.testing.assert_allclose(shown[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.usefixtures("saving_always")
def test_both_show_the_record_of_each_k_and_change_no_byte(shards, tmp_path, caplog):
    plain = {k: tmp_path / "plain" / f"L16_k{k}" for k in (3, 5)}
    tracked = {k: tmp_path / "tracked" / f"L16_k{k}" for k in (3, 5)}
    list(train_saes(shards, plain, OPTIONS, project="test"))
    tracking = Tracking(TRACKERS, tmp_path / "tracking")
    results = list(train_saes(shards, tracked, OPTIONS, project="test", tracking=tracking))
    assert warnings_in(caplog) == []
    files = {path.parent.name: path for path in tmp_path.rglob("*.wandb")}
    assert len(files) == 2
    for result in results:
        assert files_of(tracked[result.k]) == files_of(plain[result.k])
        name, fingerprint = f"L16_k{result.k}", result.product.manifest.fingerprint
        summary = result.product.manifest.summary
        record = record_of(tracked[result.k])
        assert len(record["loss"]) == 9
        assert len(record["train_fvu"]) == 3

        folder = tmp_path / "tracking" / "tensorboard" / "test" / name / fingerprint[:8]
        scalars, texts = read_events(folder)
        require_same(scalars, record)
        assert texts["summary"] == summary

        (file,) = (file for folder, file in files.items() if folder.endswith(fingerprint[:32]))
        shown, config, ended, about = read_wandb(file)
        require_same(shown, record)
        assert (about.display_name, about.project, about.run_id) == (name, "test", fingerprint[:32])
        assert {key: ended[key] for key in summary} == summary

        for configuration in (texts["config"], config):
            assert (configuration["latent_dim"], configuration["width"]) == (16, 8)
            assert (configuration["k"], configuration["encoder"]) == (result.k, "esmc_test")
            assert configuration["data_fingerprint"] == shards.fingerprint
            assert configuration["learning_rate"] == 1e-2


def test_nothing_that_is_written_holds_the_key_the_user_or_the_host(shards, tmp_path, capfd):
    train_sae_tracked(shards, tmp_path, ["wandb"])
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    printed = "".join(capfd.readouterr())
    assert KEY.encode() not in content
    assert KEY not in printed
    assert not list(tmp_path.rglob("wandb-metadata.json"))


def train_sae_tracked(shards, folder, names):
    tracking = Tracking(names, folder / "tracking")
    (result,) = train_saes(shards, {3: folder / "L16_k3"}, OPTIONS, tracking=tracking)
    return result


KILLED = """
import os, sys
from pathlib import Path
import esm_sae.sae.training_run as training_run
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, train_saes
from esm_sae.tracking import TRACKERS, Tracking
training_run._STEPS_PER_ROW = 1
left, save = int(sys.argv[3]), training_run.TrainingRun._save
training_run.TrainingRun._save_is_due = lambda run: run.steps in (2, 3)
original = training_run.take_step
def take_step(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return original(*arguments, **options)
training_run.take_step = take_step
options = TrainOptions(16, batch_size=32, num_epochs=3, learning_rate=1e-2, k=1)
tracking = Tracking(TRACKERS, Path(sys.argv[2], "tracking"))
list(train_saes(open_shards(sys.argv[1]), {3: f"{sys.argv[2]}/L16_k3"}, options, tracking=tracking))
"""


@pytest.mark.usefixtures("saving_always")
def test_a_killed_training_goes_on_in_the_same_run_without_doubled_steps(shards, tmp_path, python):
    # Step 5 of 9 is shown, and lost: only 3 are saved.
    process = python(KILLED, shards.directory, tmp_path, 5, check=False)
    assert process.returncode == -9
    shown, _ = read_events(the_events(tmp_path / "tracking"))
    assert [step for step, _ in shown["loss"]] == [1, 2, 3, 4, 5]
    killed = the_wandb_file(tmp_path / "tracking").parent

    result = train_sae_tracked(shards, tmp_path, TRACKERS)
    record = record_of(result.product.path)
    assert [step for step, _ in record["loss"]] == list(range(1, 10))
    shown, texts = read_events(the_events(tmp_path / "tracking"))
    require_same(shown, record)
    assert texts.keys() == {"config", "summary"}
    whole = the_wandb_file(tmp_path / "tracking")
    assert whole.parent != killed
    shown, *_, about = read_wandb(whole)
    require_same(shown, record)
    assert about.run_id == result.product.manifest.fingerprint[:32]


@pytest.mark.usefixtures("saving_always")
def test_a_tracker_that_comes_later_shows_what_was_before(shards, tmp_path, monkeypatch):
    original = training_run.take_step
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", dying_after(4, original))
        with pytest.raises(KeyboardInterrupt):
            train_sae(shards, tmp_path / "L16_k3", OPTIONS)
    result = train_sae_tracked(shards, tmp_path, ["tensorboard"])
    scalars, _ = read_events(the_events(tmp_path / "tracking"))
    require_same(scalars, record_of(result.product.path))


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("removed", [(), (0,), (0, 1)])
def test_rows_made_while_tracking_was_off_are_shown(shards, tmp_path, monkeypatch, removed):
    tracked = Tracking(["tensorboard"], tmp_path / "tracking")
    original = training_run.take_step
    for tracking in (tracked, Tracking(), tracked):
        with monkeypatch.context() as patched:
            patched.setattr(training_run, "take_step", dying_after(2, original))
            with pytest.raises(KeyboardInterrupt):
                list(train_saes(shards, {3: tmp_path / "L16_k3"}, OPTIONS, tracking=tracking))
    folder = the_events(tmp_path / "tracking")
    for number in removed:
        (folder / f"events.out.tfevents.{number:010d}").unlink()
    result = train_sae_tracked(shards, tmp_path, ["tensorboard"])
    scalars, texts = read_events(folder)
    record = record_of(result.product.path)
    assert [step for step, _ in scalars["loss"]] == list(range(1, 10))
    require_same(scalars, record)
    assert texts["summary"] == result.product.manifest.summary


def dying_after(steps, original):
    taken = iter(range(steps))

    def take_step(*arguments, **options):
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    return take_step


class Failing:
    """A tracker that fails at a row, with the key in what it says."""

    def __init__(self, fails_at):
        self.fails_at, self.rows, self.finished = fails_at, [], []

    def log(self, row):
        if row["step"] >= self.fails_at:
            raise OSError(f"no space for {KEY}\nat all")
        self.rows.append(row)

    def finish(self, summary):
        self.finished.append(summary)
        if summary is None:
            raise OSError("again")


def test_a_tracker_that_fails_is_warned_of_once_and_told_no_more(caplog):
    failing, sound = Failing(3), Failing(99)
    with Trackers("L16_k3") as trackers:
        assert trackers.add("wandb", lambda: failing)
        assert trackers.add("tensorboard", lambda: sound)
        for step in range(1, 6):
            trackers.log({"step": step})
        trackers.finish({"fvu": 0.5})
    assert ([row["step"] for row in failing.rows], failing.finished) == ([1, 2], [None])
    assert ([row["step"] for row in sound.rows], sound.finished) == (
        [1, 2, 3, 4, 5],
        [{"fvu": 0.5}],
    )
    assert warnings_in(caplog) == [
        "L16_k3: no longer tracked by wandb (OSError: no space for ... at all); the training goes "
        "on"
    ]


def test_what_stands_in_the_trackers_way_ends_no_training(shards, tmp_path, caplog):
    plain = train_sae(shards, tmp_path / "plain" / "L16_k3", OPTIONS).product
    folder = tmp_path / "tracking" / "tensorboard" / "esm_sae" / "L16_k3"
    folder = folder / plain.manifest.fingerprint[:8]
    folder.parent.mkdir(parents=True)
    for place in (folder, tmp_path / "tracking" / "wandb"):
        place.write_text("a file where a folder is to be")
    outputs = {k: tmp_path / f"L16_k{k}" for k in (3, 5)}
    tracking = Tracking(TRACKERS, tmp_path / "tracking")
    list(train_saes(shards, outputs, OPTIONS, tracking=tracking))
    assert files_of(outputs[3]) == files_of(plain.path)
    warnings = warnings_in(caplog)
    assert len(warnings) == 2
    assert warnings[0].startswith("L16_k3: no longer tracked by tensorboard (FileExistsError")
    assert warnings[1].startswith("L16_k3: no longer tracked by wandb (")


def test_a_server_that_is_not_there_ends_no_training(shards, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "_SECONDS_TO_OPEN", 1)
    result = train_sae_tracked(shards, tmp_path, ["wandb"])
    assert result.samples > 0
    (warning,) = warnings_in(caplog)
    assert warning.startswith("L16_k3: no longer tracked by wandb (")


def test_a_project_may_have_any_name(tmp_path):
    run = TrackedRun("L16_k3", "../a/b: c?", "0" * 64, {"k": 3}, [{"step": 1, "loss": 0.5}])
    with Tracking(TRACKERS, tmp_path).follow(run) as trackers:
        trackers.log({"step": 2, "loss": 0.25, "train_fvu": None})
    scalars, _ = read_events(the_events(tmp_path))
    assert scalars == {"loss": [(1, 0.5), (2, 0.25)]}
    assert the_events(tmp_path).parent.parent.name == "_a_b_ c_"
    shown, _, _, about = read_wandb(the_wandb_file(tmp_path))
    assert (shown, about.project) == (scalars, "_a_b_ c_")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflow", "tracker 'mlflow': expected one of tensorboard, wandb"),
        ("wandb", r"tracker 'wandb': its package is not installed; pip install 'esm-sae\[wandb\]'"),
    ],
)
def test_what_cannot_be_had_is_told_before_the_training(
    shards, tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=message):
        train_sae_tracked(shards, tmp_path, [name])
    assert list(tmp_path.glob("L16*")) == []
    require_trackers([])


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert importlib.util.find_spec("wandb") is not None
    with pytest.raises(InputError, match="tracker 'wandb': its package is not installed"):
        require_trackers(["wandb"])


def test_the_command_puts_it_beside_the_outputs_or_where_it_is_told(shards, tmp_path, capsys):
    line = f"--np_dir {shards.directory} --project p --latent_dim 16 --topk 3 --num_epochs 1"
    line = [*line.split(), "--quiet", "--output", str(tmp_path / "out" / "sae")]
    assert main([*line, "--track", "tensorboard"]) == 0
    assert the_events(tmp_path / "out" / "tracking").parent.name == "L16_k3"
    elsewhere = ["--track_dir", str(tmp_path / "else"), "--seed", "1"]
    assert main([*line, *elsewhere, "--track", "tensorboard"]) == 0
    assert the_events(tmp_path / "else").is_relative_to(tmp_path / "else" / "tensorboard" / "p")
    inside = ["--track_dir", str(tmp_path / "out" / "sae" / "t"), "--track", "tensorboard"]
    assert main([*line, *inside]) == 2
    assert "is in the output" in capsys.readouterr().err
    assert main([*line, "--track", "mlflow"]) == 2
    assert "tracker 'mlflow'" in capsys.readouterr().err


LIGHT = """
import sys
from esm_sae.formats.shards import open_shards
import esm_sae.train
from esm_sae.sae import TrainOptions, train_saes
options = TrainOptions(16, 3, batch_size=32, num_epochs=1)
list(train_saes(open_shards(sys.argv[1]), {3: sys.argv[2]}, options))
print(sorted({"wandb", "tensorboard", "sentry_sdk"} & set(sys.modules)))
"""


def test_a_training_that_is_not_tracked_imports_neither(shards, tmp_path, python):
    assert python(LIGHT, shards.directory, tmp_path / "L16_k3").stdout == "[]\n"


def test_another_training_in_the_same_folder_has_a_run_of_its_own(shards, tmp_path):
    train_sae_tracked(shards, tmp_path, ["tensorboard"])
    tracking = Tracking(["tensorboard"], tmp_path / "tracking")
    list(train_saes(shards, {3: tmp_path / "L16_k3"}, replace(OPTIONS, seed=1), tracking=tracking))
    folders = {path.parent for path in tmp_path.rglob("*.tfevents.*")}
    assert len(folders) == 2
    assert len({folder.parent for folder in folders}) == 1
