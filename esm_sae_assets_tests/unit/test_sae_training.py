"""A whole training: its files, the same bytes, going on after a kill, and refusals."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import read_checkpoint
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, load_checkpoint, train_sae, train_saes, training_run
from esm_sae.sae.rows import SplitChoice, split_rows

OPTIONS = TrainOptions(16, 3, batch_size=32, num_epochs=3, learning_rate=1e-2)


@pytest.fixture
def shards(make_shards):
    """About 80 training rows of 8 numbers: two steps and a short tail per epoch."""
    folder, _ = make_shards(proteins=100, width=8, count=3)
    return open_shards(folder)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def numbers_of(rows):
    return rows.at(np.arange(len(rows)))


def nothing_published(folder):
    return not (folder / "manifest.json").exists() and not list(folder.glob("*.npy"))


def test_a_training_makes_the_folder_of_the_contract(shards, tmp_path):
    result = train_sae(shards, tmp_path / "L16_k3", OPTIONS, project="test")
    rows = len(split_rows(shards, SplitChoice(None, 0)).train)
    assert result.samples == 3 * rows
    assert set(files_of(tmp_path / "L16_k3")) == {
        "checkpoint_epoch_3.npy",
        "config.json",
        "manifest.json",
        "metrics.parquet",
        "train_state.safetensors",
    }
    config = json.loads((tmp_path / "L16_k3" / "config.json").read_text())
    assert (config["width"], config["latent_dim"], config["k"]) == (8, 16, 3)
    assert (config["encoder"], config["layer"], config["pooling"]) == ("esmc_test", 3, "mean")
    assert config["data_fingerprint"] == shards.fingerprint
    assert set(config["versions"]) == {*("jax", "jaxlib", "llvmlite", "numba", "numpy", "optax")}
    assert config["final_checkpoint"] == "checkpoint_epoch_3.npy"
    log = pl.read_parquet(tmp_path / "L16_k3" / "metrics.parquet")
    steps = -(-rows // 32)
    assert log["step"].to_list() == [steps, 2 * steps, 3 * steps]
    assert log["samples"].to_list() == [rows, 2 * rows, 3 * rows]
    assert log["train_fvu"].is_sorted(descending=True)
    summary = result.product.manifest.summary
    assert summary["train_fvu"] == log["train_fvu"][-1]
    assert summary["validation_fvu"] == log["validation_fvu"][-1]


def test_the_weights_are_for_raw_rows_and_reconstruct_as_recorded(shards, tmp_path):
    product = train_sae(shards, tmp_path / "L16_k3", OPTIONS).product
    checkpoint = read_checkpoint(product.path)
    np.testing.assert_allclose(np.linalg.norm(checkpoint.decoder, axis=1), 1, rtol=1e-5)
    train = shards.rows_at(numbers_of(split_rows(shards, SplitChoice(None, 0)).train)).astype(
        np.float64
    )
    again = load_checkpoint(product.path).reconstruct(train)
    fvu = ((train - again) ** 2).sum() / ((train - train.mean(0)) ** 2).sum()
    np.testing.assert_allclose(product.manifest.summary["train_fvu"], fvu, rtol=1e-5)


def test_the_same_input_and_seed_give_the_same_bytes_and_another_seed_others(shards, tmp_path):
    one = train_sae(shards, tmp_path / "one" / "L16_k3", OPTIONS).product
    two = train_sae(shards, tmp_path / "two" / "L16_k3", OPTIONS).product
    assert files_of(one.path) == files_of(two.path)
    again = train_sae(shards, one.path, OPTIONS)
    assert (again.product.unchanged, again.samples) == (True, 0)
    reseeded = TrainOptions(16, 3, batch_size=32, num_epochs=3, learning_rate=1e-2, seed=1)
    other = train_sae(shards, tmp_path / "other" / "L16_k3", reseeded).product
    assert other.manifest.files != one.manifest.files


@pytest.fixture
def saving_always(monkeypatch):
    """Save at every row of the record, which are otherwise a minute apart, and every step."""
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training_run, "_STEPS_PER_ROW", 1)


def dying_at_step(monkeypatch, step):
    """Have training interrupted before a step, counted over all k."""
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **options):
        nonlocal taken
        taken += 1
        if taken > step:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(training_run, "take_step", take_step)


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("step", [0, 1, 3, 4, 8])
def test_a_stopped_training_goes_on_to_the_same_bytes(shards, tmp_path, monkeypatch, step):
    whole = train_sae(shards, tmp_path / "whole" / "L16_k3", OPTIONS).product
    target = tmp_path / "stopped" / "L16_k3"
    with monkeypatch.context() as patched:
        dying_at_step(patched, step)
        with pytest.raises(KeyboardInterrupt):
            train_sae(shards, target, OPTIONS)
    assert nothing_published(target)
    result = train_sae(shards, target, OPTIONS)
    rows = len(split_rows(shards, SplitChoice(None, 0)).train)
    epochs, steps = divmod(step, 3)
    assert result.samples == 3 * rows - (epochs * rows + 32 * steps)
    assert files_of(target) == files_of(whole.path)
    assert [path.name for path in target.parent.iterdir()] == ["L16_k3"]


KILLED = """
import os, sys
import esm_sae.sae.training_run as training_run
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, train_saes
training_run._SECONDS_BETWEEN_SAVES, training_run._STEPS_PER_ROW = 0.0, 1
left, original = int(sys.argv[3]), os.replace
def replace(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return original(*arguments, **options)
os.replace = replace
options = TrainOptions(
    16, batch_size=32, num_epochs=3, learning_rate=1e-2, checkpoint_every=1, k=1
)
outputs = {k: f"{sys.argv[2]}/L16_k{k}" for k in (3, 5)}
list(train_saes(open_shards(sys.argv[1]), outputs, options))
"""


# A save replaces the record and the state, at the end of an epoch the checkpoint before; of two k.
@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("replaced", [0, 9, 15, 42, 44])
def test_another_process_goes_on_from_a_killed_one_to_the_same_bytes(
    shards, tmp_path, python, replaced
):
    options = replace(OPTIONS, checkpoint_every=1)
    killed, whole = ({k: tmp_path / name / f"L16_k{k}" for k in (3, 5)} for name in ("a", "b"))
    # Older outputs, which are there until the new ones take their place.
    list(train_saes(shards, killed, replace(options, seed=9)))
    older = {k: files_of(folder) for k, folder in killed.items()}
    process = python(KILLED, shards.directory, tmp_path / "a", replaced, check=False)
    assert process.returncode == -9
    left = {k: files_of(folder) for k, folder in killed.items()}
    list(train_saes(shards, whole, options))
    finished = {k: files_of(folder) for k, folder in whole.items()}
    assert left[5] == older[5]
    assert left[3] in (older[3], finished[3])
    list(train_saes(shards, killed, options))
    assert {k: files_of(folder) for k, folder in killed.items()} == finished
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"L16_k3", "L16_k5"}


def test_a_short_training_is_saved_at_its_end_only(shards, tmp_path, monkeypatch):
    saved, save = [], training_run.save_state
    monkeypatch.setattr(
        training_run,
        "save_state",
        lambda *arguments, **options: (saved.append(options["step"]), save(*arguments, **options)),
    )
    train_sae(shards, tmp_path / "L16_k3", OPTIONS)
    assert saved == [9]


def test_a_damaged_state_is_named(tmp_path):
    from esm_sae.sae.train_state import load_state, save_state
    from esm_sae.sae.training_step import start

    state = start(OPTIONS, 8)
    assert load_state(tmp_path, state) is None
    save_state(tmp_path, state, step=9)
    assert load_state(tmp_path, state)[1] == 9
    with pytest.raises(InputError, match="cannot be resumed from"):
        load_state(tmp_path, start(TrainOptions(17, 3), 8))
    path = tmp_path / "train_state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be resumed from"):
        load_state(tmp_path, state)


def test_held_out_rows_touch_nothing(make_shards, tmp_path):
    """Neither the weights nor the mean and scale folded into them see a held-out row."""
    weights = []
    for name, factor in (("plain", 1.0), ("changed", 1000.0)):
        folder, _ = make_shards(proteins=100, width=8, count=1, name=name)
        rows = split_rows(open_shards(folder), SplitChoice(None, 0))
        matrix = np.load(folder / "embeddings_0000-of-0001.npy")
        matrix[np.r_[numbers_of(rows.validation), numbers_of(rows.test)]] *= np.float32(factor)
        bare = tmp_path / f"bare_{name}"
        bare.mkdir()
        np.save(bare / "rows.npy", matrix)
        with pytest.warns(UserWarning, match="are unknown"):
            shards = open_shards(bare)
        # Bare rows are named file:row; the split of the shards is kept by a table of clusters.
        ids = open_shards(folder).index.collect()["sequence_id"]
        clusters = tmp_path / "clusters.parquet"
        pl.DataFrame(
            {"sequence_id": [f"rows:{row}" for row in range(100)], "cluster_id": ids}
        ).write_parquet(clusters)
        product = train_sae(
            shards, tmp_path / f"out_{name}" / "L16_k3", OPTIONS, similarity_clusters=clusters
        ).product
        weights.append(read_checkpoint(product.path))
        assert product.manifest.summary["training_rows"] == len(rows.train)
    for name in ("encoder", "decoder", "latent_bias", "pre_bias"):
        assert getattr(weights[0], name).tobytes() == getattr(weights[1], name).tobytes()
    assert weights[0].config.fvu < weights[1].config.fvu


def test_checkpoints_between_are_kept_on_wish(shards, tmp_path):
    options = TrainOptions(16, 3, batch_size=32, num_epochs=3, checkpoint_every=2)
    product = train_sae(shards, tmp_path / "L16_k3", options).product
    names = {path.name for path in product.path.glob("*.npy")}
    assert names == {"checkpoint_epoch_2.npy", "checkpoint_epoch_3.npy"}
    assert read_checkpoint(product.path).path.name == "checkpoint_epoch_3.npy"


@pytest.mark.parametrize(
    "change", [{"tied": True}, {"normalize": True}, {"latent_bias": False}], ids=str
)
def test_options_are_recorded_and_reach_the_weights(shards, tmp_path, change):
    options = TrainOptions(16, 3, batch_size=32, num_epochs=3, learning_rate=1e-2, **change)
    product = train_sae(shards, tmp_path / "L16_k3", options).product
    checkpoint = read_checkpoint(product.path)
    for name, value in change.items():
        assert getattr(checkpoint.config, name) == value
    tied = np.array_equal(checkpoint.encoder, checkpoint.decoder.T)
    assert tied == options.tied
    assert checkpoint.latent_bias.any() == options.latent_bias
    rows = shards.rows_at(numbers_of(split_rows(shards, SplitChoice(None, 0)).train))
    again = load_checkpoint(product.path).reconstruct(rows).astype(np.float64)
    fvu = ((rows - again) ** 2).sum() / ((rows - rows.mean(0, dtype=np.float64)) ** 2).sum()
    np.testing.assert_allclose(product.manifest.summary["train_fvu"], fvu, rtol=1e-4)
    assert fvu < 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0, "k": 1}, "latent_dim is 0; it must be 1 or more"),
        ({"k": 17}, "k is 17 with 16 latents; lower k or raise latent_dim"),
        ({"k": 0}, "k is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"aux_k": 0}, "aux_k is 0"),
        ({"aux_alpha": -1.0}, "aux_alpha is -1.0"),
        ({"aux_alpha": float("nan")}, "aux_alpha is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": 0.6, "decay": 0.6}, "shares of the steps"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"seed": -1}, "seed is -1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(shards, tmp_path, change, message):
    options = TrainOptions(**{"latent_dim": 16, "k": 3} | change)
    with pytest.raises(InputError, match=message):
        train_sae(shards, tmp_path / "out", options)
    assert nothing_published(tmp_path / "out")


def test_a_training_that_diverges_publishes_nothing_and_says_what_helps(shards, tmp_path):
    options = TrainOptions(16, 3, batch_size=32, num_epochs=2, learning_rate=1e38)
    with pytest.raises(
        InputError, match=r"diverged; train with a learning rate below 1e\+38 \(there is no"
    ):
        train_sae(shards, tmp_path / "L16_k3", options)
    assert nothing_published(tmp_path / "L16_k3")


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("wrong", [float("nan"), 1e6])
def test_the_last_good_weights_of_a_training_that_diverges_can_be_loaded(
    shards, tmp_path, monkeypatch, wrong
):
    older = train_sae(shards, tmp_path / "L16_k3", OPTIONS).product
    kept = files_of(older.path)
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **options):
        nonlocal taken
        taken += 1
        state, figures = original(*arguments, **options)
        return state, figures._replace(fvu=np.float32(wrong)) if taken > 4 else figures

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", take_step)
        options = replace(OPTIONS, learning_rate=2e-2)
        with pytest.raises(InputError, match=r"of step 4, are in .*L16_k3_last_good") as refused:
            train_sae(shards, older.path, options)
    assert ("rose from" in str(refused.value)) == np.isfinite(wrong)
    assert files_of(older.path) == kept
    # Its advice is followed: the next training leaves the last good weights where they are.
    train_sae(shards, older.path, replace(OPTIONS, learning_rate=1e-3))
    sae = load_checkpoint(tmp_path / "L16_k3_last_good")
    assert (sae.config.k, sae.config.width) == (3, 8)


@pytest.mark.parametrize("rate", [1.0, 10.0, 100.0])
def test_a_rate_that_ruins_the_training_from_the_start_is_no_success(shards, tmp_path, rate):
    with pytest.raises(InputError, match=f"diverged; train with a learning rate below {rate:g}"):
        train_sae(shards, tmp_path / "L16_k3", replace(OPTIONS, learning_rate=rate))
    assert nothing_published(tmp_path / "L16_k3")


@pytest.mark.usefixtures("saving_always")
def test_weights_that_the_last_update_broke_are_not_saved(shards, tmp_path, monkeypatch):
    """The losses on record are from before it."""
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **options):
        nonlocal taken
        taken += 1
        state, figures = original(*arguments, **options)
        if taken == 4:
            broken = state.weights._replace(pre_bias=state.weights.pre_bias * np.nan)
            state = state._replace(weights=broken)
        return state, figures

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", take_step)
        with pytest.raises(
            InputError, match=r"a weight became infinite by step 4.* of step 3, are"
        ):
            train_sae(shards, tmp_path / "L16_k3", OPTIONS)
    assert not train_sae(shards, tmp_path / "L16_k3", OPTIONS).product.unchanged


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("name", ["train_state.safetensors", "metrics.parquet"])
def test_what_cannot_be_gone_on_from_ends_one_k_and_is_named(shards, tmp_path, monkeypatch, name):
    outputs = {k: tmp_path / f"L16_k{k}" for k in (3, 5)}
    with monkeypatch.context() as patched:
        dying_at_step(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            list(train_saes(shards, outputs, OPTIONS))
    (damaged,) = tmp_path.glob(f".L16_k3.*.work/{name}")
    damaged.write_bytes(b"damaged")
    done = []
    with pytest.raises(InputError, match=f"{name}: cannot be .*remove .* and train again"):
        done.extend(result.k for result in train_saes(shards, outputs, OPTIONS))
    assert done == [5]


def test_a_damaged_shard_stops_the_training(make_shards, tmp_path):
    folder, _ = make_shards(proteins=60)
    shards = open_shards(folder)
    path = folder / "embeddings_0001-of-0003.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"0001-of-0003\.npy: its bytes differ"):
        train_sae(shards, tmp_path / "out", OPTIONS)
    assert nothing_published(tmp_path / "out")


def test_float16_shards_train_too(make_shards, tmp_path):
    folder, _ = make_shards(proteins=100, dtype="float16")
    product = train_sae(open_shards(folder), tmp_path / "L16_k3", OPTIONS).product
    assert 0 < product.manifest.summary["train_fvu"] < 1
