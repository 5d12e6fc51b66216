"""Several k in one pass: each as if alone, and what happens when one fails."""

import errno
import os
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.shards import EmbeddingShards, open_shards
from esm_sae.sae import TrainOptions, train_sae, train_saes, training_run
from esm_sae.sae.devices import Devices
from esm_sae.sae.rows import SplitChoice, split_rows

OPTIONS = TrainOptions(16, batch_size=32, num_epochs=3, learning_rate=1e-2, k=2)
KS = (2, 3, 5)


@pytest.fixture
def shards(make_shards):
    folder, _ = make_shards(proteins=100, width=8, count=3)
    return open_shards(folder)


def outputs(root, ks=KS):
    return {k: root / f"L16_k{k}" for k in ks}


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def all_files(root, ks=KS):
    return {k: files_of(folder) for k, folder in outputs(root, ks).items()}


@pytest.fixture
def saving_always(monkeypatch):
    monkeypatch.setattr(training_run, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(training_run, "_STEPS_PER_ROW", 1)


@pytest.fixture
def alone(shards, tmp_path):
    """The folders of each k trained alone."""
    for k, folder in outputs(tmp_path / "alone").items():
        train_sae(shards, folder, replace(OPTIONS, k=k))
    return all_files(tmp_path / "alone")


def test_each_is_the_same_bytes_as_alone_and_the_rows_are_read_once(
    shards, tmp_path, alone, monkeypatch
):
    read, original = 0, EmbeddingShards.rows_at

    def rows_at(self, indices):
        nonlocal read
        read += len(indices)
        return original(self, indices)

    monkeypatch.setattr(EmbeddingShards, "rows_at", rows_at)
    results = list(train_saes(shards, outputs(tmp_path), OPTIONS))
    of_three, read = read, 0
    assert [result.k for result in results] == list(KS)
    assert len({result.product.manifest.data_version for result in results}) == 3
    assert all_files(tmp_path) == alone
    train_sae(shards, tmp_path / "again" / "L16_k2", OPTIONS)
    assert of_three == read


def test_what_is_there_is_left_and_a_single_k_is_rerun_alone(shards, tmp_path, alone):
    list(train_saes(shards, outputs(tmp_path, (2, 5)), OPTIONS))
    results = list(train_saes(shards, outputs(tmp_path), OPTIONS))
    assert {result.k: result.product.unchanged for result in results} == {
        2: True,
        5: True,
        3: False,
    }
    assert {result.k: bool(result.samples) for result in results} == {2: False, 5: False, 3: True}
    assert all_files(tmp_path) == alone


def test_those_that_are_further_on_wait_for_the_others(
    saving_always, shards, tmp_path, alone, monkeypatch
):
    """After a kill each goes on from where it was saved, on the same batches."""
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **options):
        nonlocal taken
        taken += 1
        if taken > 8:  # k = 2 and k = 3 have done three steps, k = 5 two
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            list(train_saes(shards, outputs(tmp_path), OPTIONS))
    samples = {
        result.k: result.samples for result in train_saes(shards, outputs(tmp_path), OPTIONS)
    }
    assert samples[5] > samples[2] == samples[3]
    assert all_files(tmp_path) == alone


def test_a_failure_of_one_leaves_the_others_to_finish(shards, tmp_path, alone, monkeypatch):
    original = training_run.take_step

    def take_step(*arguments, **options):
        state, figures = original(*arguments, **options)
        wrong = options["options"].loss.k == 3
        return state, figures._replace(loss=np.float32("nan")) if wrong else figures

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", take_step)
        with pytest.raises(InputError, match=r"L16_k3: loss became nan .* diverged"):
            done.extend(result.k for result in train_saes(shards, outputs(tmp_path), OPTIONS))
    assert not (tmp_path / "L16_k3").exists()
    assert all_files(tmp_path, (2, 5)) == {k: alone[k] for k in (2, 5)}
    results = list(train_saes(shards, outputs(tmp_path), OPTIONS))
    assert [result.k for result in results if not result.product.unchanged] == [3]
    assert all_files(tmp_path) == alone


def test_results_come_before_the_failure_is_raised(shards, tmp_path, monkeypatch):
    original = training_run.TrainingRun.take

    def take(self, batch):
        if self.options.k != 3:
            self.failure = InputError(f"no room for {self.options.k}")
        else:
            original(self, batch)

    monkeypatch.setattr(training_run.TrainingRun, "take", take)
    results = train_saes(shards, outputs(tmp_path), OPTIONS)
    assert next(results).k == 3
    with pytest.raises(InputError, match="k = 2: no room for 2; k = 5: no room for 5"):
        next(results)


def test_all_k_are_looked_at_before_anything_is_made(shards, tmp_path):
    with pytest.raises(InputError, match="k is 17 with 16 latents"):
        list(train_saes(shards, outputs(tmp_path, (2, 17)), OPTIONS))
    assert list(tmp_path.glob("L16*")) == []


@pytest.mark.parametrize("writer", ["save_state", "write_config"])
def test_a_disk_full_for_one_leaves_the_others_and_is_gone_on_from(
    saving_always, shards, tmp_path, alone, monkeypatch, writer
):
    """Whether it shows at a save or only when the folder is published."""
    original, written = getattr(training_run, writer), 0

    def write(folder, *arguments, **options):
        nonlocal written
        if "L16_k3" in folder.name:
            written += 1
            if written > 2 or writer == "write_config":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(folder, *arguments, **options)

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(training_run, writer, write)
        with pytest.raises(InputError, match=r"L16_k3: cannot be written \(No space left"):
            done.extend(result.k for result in train_saes(shards, outputs(tmp_path), OPTIONS))
    assert done == [2, 5]
    again = {result.k: result.samples for result in train_saes(shards, outputs(tmp_path), OPTIONS)}
    whole = 3 * len(split_rows(shards, SplitChoice(None, 0)).train)
    assert 0 <= again[3] < whole
    assert all_files(tmp_path) == alone


def test_two_k_with_one_folder_are_refused(shards, tmp_path):
    outputs = {2: tmp_path / "x", 3: tmp_path / "y" / ".." / "x"}
    with pytest.raises(InputError, match="is the output of k = 2 and of k = 3"):
        list(train_saes(shards, outputs, OPTIONS))


def test_a_finished_k_is_free_while_the_consumer_takes_its_time(shards, tmp_path):
    results = train_saes(shards, outputs(tmp_path), OPTIONS)
    assert next(results).k == 2
    assert train_sae(shards, tmp_path / "L16_k2", replace(OPTIONS, k=2)).product.unchanged
    assert [result.k for result in results] == [3, 5]
    again = train_saes(shards, outputs(tmp_path), OPTIONS)
    assert next(again).product.unchanged
    assert train_sae(shards, tmp_path / "L16_k2", replace(OPTIONS, k=2)).product.unchanged


@pytest.mark.parametrize("resident", [False, True])
def test_one_accelerator_reaches_the_loss_of_a_cpu_and_goes_on_after_a_stop(
    saving_always, shards, tmp_path, alone, monkeypatch, resident
):
    """Dense, with batches put on the device or rows that stay there; forced on a CPU."""
    monkeypatch.setattr(Devices, "here", lambda: Devices("gpu", 1))
    monkeypatch.setattr("esm_sae.sae.reading.fit_on_device", lambda shards, rows: resident)
    list(train_saes(shards, outputs(tmp_path / "whole"), OPTIONS))
    taken, original = 0, training_run.take_step

    def take_step(*arguments, **options):
        nonlocal taken
        taken += 1
        if taken > 10:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            list(train_saes(shards, outputs(tmp_path), OPTIONS))
    list(train_saes(shards, outputs(tmp_path), OPTIONS))
    assert all_files(tmp_path) == all_files(tmp_path / "whole")
    for k in KS:
        dense, sparse = (
            pl.read_parquet(root / f"L16_k{k}" / "metrics.parquet")
            for root in (tmp_path, tmp_path / "alone")
        )
        for column in ("loss", "train_fvu", "validation_fvu"):
            np.testing.assert_allclose(dense[column], sparse[column], rtol=1e-4)


def test_bfloat16_products_train_as_well_to_rounding(shards, tmp_path, alone):
    list(train_saes(shards, outputs(tmp_path), replace(OPTIONS, precision="bfloat16")))
    for k in KS:
        one, other = (
            pl.read_parquet(root / f"L16_k{k}" / "metrics.parquet")["train_fvu"][-1]
            for root in (tmp_path, tmp_path / "alone")
        )
        assert one != other
        np.testing.assert_allclose(one, other, rtol=0.05)
