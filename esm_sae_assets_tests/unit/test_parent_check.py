"""Rows of another parent than the SAE's are told by how badly they are reconstructed."""

import re
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import compute_activations
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig, write_checkpoint
from esm_sae.formats.parent_check import require_parent
from esm_sae.formats.sae_files import read_sae
from esm_sae.formats.shards import ROW_SCHEMA, Provenance
from esm_sae.sae.inference import SAE
from plain_rows import PlainRows

D, N = 8, 3_000


UNKNOWN = Provenance()


def rows_along(axes, *, provenance=UNKNOWN, rows=N):
    """Return rows that vary along some axes."""
    generator = np.random.default_rng(0)
    matrix = np.zeros((rows, D), dtype=np.float32)
    matrix[:, axes] = generator.standard_normal((rows, len(axes)))
    matrix += generator.normal(0, 0.1, (rows, D)).astype(np.float32) + 5
    table = pl.DataFrame(
        {name: [f"P{n}" for n in range(rows)] if name == "sequence_id" else None
         for name in ROW_SCHEMA},
        schema=ROW_SCHEMA,
    )  # fmt: skip
    return PlainRows(matrix, table, provenance)


def sae_of(axes, **config):
    """Return an SAE with a latent for each direction of the axes, all of which may fire."""
    directions = np.concatenate([np.eye(D)[axes], -np.eye(D)[axes]]).astype(np.float32)
    return SAE(
        Checkpoint(
            encoder=np.ascontiguousarray(directions.T),
            decoder=directions,
            latent_bias=np.zeros(len(directions), np.float32),
            pre_bias=np.full(D, 5, np.float32),
            config=SAEConfig(D, len(directions), len(directions), **config),
            path="sae",
        )
    )


FIRST, LAST = [0, 1, 2], [5, 6, 7]
KNOWN = {"encoder": "esmc_test", "weights_sha256": "0" * 64, "layer": 3, "pooling": "mean"}


def fvu_of(sae, matrix):
    errors = np.square(matrix - sae.reconstruct(matrix)).sum()
    return errors / np.square(matrix - matrix.mean(0)).sum()


@pytest.mark.parametrize("reported", [None, 0.02])
@pytest.mark.parametrize("given", [SAEConfig(1, 1, 1), Provenance()], ids=["sae", "rows"])
def test_the_right_rows_pass_in_silence(reported, given):
    of_sae, of_rows = ({}, KNOWN) if isinstance(given, SAEConfig) else (KNOWN, {})
    sae = sae_of(FIRST, fvu=reported, **of_sae)
    require_parent(sae, rows_along(FIRST, provenance=Provenance(**of_rows)), "rows")


@pytest.mark.parametrize(
    ("reported", "beside"), [(None, "where nothing is reported"), (0.02, "where 0.02 was")]
)
def test_the_rows_of_another_layer_are_warned_of_with_figures(reported, beside):
    sae, rows = sae_of(FIRST, fvu=reported), rows_along(LAST)
    with pytest.warns(UserWarning, match=rf"^the rows: .*{beside}") as caught:
        require_parent(sae, rows, "the rows")
    sample = rows.matrix[np.linspace(0, N - 1, 2_048).astype(int)]
    shown = re.search(r"a fraction of ([0-9.]+) of the variance of 2,048", str(caught[0].message))
    assert float(shown[1]) == pytest.approx(fvu_of(sae, sample), rel=1e-3)


def test_the_limit_is_twice_what_was_reported_and_a_twentieth():
    rows = rows_along([0, 1])
    fvu = fvu_of(sae_of([0]), rows.matrix[np.linspace(0, N - 1, 2_048).astype(int)])
    just = (fvu - 0.05) / 2
    require_parent(sae_of([0], fvu=just * 1.01), rows, "rows")
    with pytest.warns(UserWarning, match="rows unexplained"):
        require_parent(sae_of([0], fvu=just * 0.99), rows, "rows")


def test_what_both_sides_tell_is_compared_and_nothing_reconstructed():
    sae = sae_of(FIRST, fvu=0.01, **KNOWN)
    require_parent(sae, rows_along(LAST, provenance=Provenance(**KNOWN)), "rows")
    with pytest.raises(InputError, match=r"differ in layer \(4 and 3\)"):
        require_parent(sae, rows_along(LAST, provenance=Provenance("esmc_test", layer=4)), "rows")


@pytest.mark.parametrize("unknown", ["encoder", "weights_sha256", "layer", "pooling"])
def test_each_that_one_side_does_not_tell_leads_to_a_reconstruction(unknown):
    told = {name: value for name, value in KNOWN.items() if name != unknown}
    for of_sae, of_rows in ((told, KNOWN), (KNOWN, told)):
        sae, rows = sae_of(FIRST, **of_sae), rows_along(LAST, provenance=Provenance(**of_rows))
        with pytest.warns(UserWarning, match="does not record all"):
            require_parent(sae, rows, "rows")


def test_a_few_rows_tell_too_little():
    require_parent(sae_of(FIRST), rows_along(LAST, rows=63), "rows")
    with pytest.warns(UserWarning, match="of 64 of its rows"):
        require_parent(sae_of(FIRST), rows_along(LAST, rows=64), "rows")


def test_rows_that_do_not_vary_are_not_divided_by_nothing():
    rows = rows_along(FIRST)
    require_parent(sae_of(FIRST), replace(rows, matrix=np.ones((N, D), np.float32)), "rows")


def test_computing_activations_warns_once(tmp_path):
    rows = rows_along(LAST)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compute_activations(sae_of(FIRST), rows, tmp_path / "out")
    assert [str(each.message).startswith("rows: the SAE leaves") for each in caught] == [True]


def test_a_file_alone_tells_what_its_training_reported(tmp_path):
    weights = sae_of(FIRST)
    config = SAEConfig(D, 6, 6, normalize=True, normalize_ddof=1, fvu=0.125)
    write_checkpoint(
        tmp_path / "alone.npy",
        encoder=weights.decoder.T,
        decoder=weights.decoder,
        latent_bias=np.zeros(6),
        pre_bias=np.zeros(D),
        config=config,
    )
    alone = read_sae(tmp_path / "alone.npy").config
    assert (alone.fvu, alone.z_score) == (0.125, config.z_score)
