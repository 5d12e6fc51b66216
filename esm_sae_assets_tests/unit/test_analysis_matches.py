from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.latents.correlation import correlation_blocks, latent_columns
from esm_sae.analysis.latents.held_out_rows import held_out_rows
from esm_sae.analysis.latents.matches import match_latents
from esm_sae.analysis.latents.pair_matches import match_by_correlation, match_by_cosine
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    MATCH_COMPARISON,
    MATCH_COMPARISON_SCHEMA,
    MATCH_FIGURE,
    MATCH_SCHEMA,
    MATCHES,
    SPLIT_SCHEMA,
    SPLITS,
    STABILITY,
    STABILITY_SCHEMA,
)
from esm_sae.split import splits_of
from esm_sae_assets_tests.support.planted_saes import WIDTH, NumberedRows, PlantedSAE

ROWS = NumberedRows([f"P{number}" for number in range(2_000)])
LATENTS = 6


def columns_of(dense: np.ndarray) -> Any:
    rows, latents = np.nonzero(dense)
    return latent_columns(rows, latents, dense[rows, latents], dense.shape)


def sparse_activations(count: int, seed: int, share: float = 0.1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = generator.random((ROWS.rows, count), dtype=np.float32) + 0.5
    return np.where(generator.random(values.shape) < share, values, 0)


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def match(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that matches SAEs and reads all tables."""

    def run(saes: dict[int, Any], replicates: dict[int, Any], **options: Any) -> dict[str, Any]:
        product = match_latents(saes, replicates, ROWS, tmp_path / "matches", **options)
        names = {"matches": MATCHES, "comparison": MATCH_COMPARISON, "splits": SPLITS}
        tables: dict[str, Any] = {
            key: pl.read_parquet(product.path / name)
            for key, name in (names | {"stability": STABILITY}).items()
        }
        assert (product.path / MATCH_FIGURE).read_bytes().startswith(b"\x89PNG")
        return tables | {"summary": product.manifest.summary, "product": product}

    return run


def row_of(table: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    return table.row(
        by_predicate=pl.all_horizontal(*(pl.col(k) == v for k, v in wanted.items())), named=True
    )


def test_correlations_equal_numpys() -> None:
    one, other = sparse_activations(5, 1), sparse_activations(300, 2)
    blocks = list(correlation_blocks(columns_of(other), columns_of(one)))
    assert [block.stop - block.start for block, _ in blocks] == [256, 44]
    expected = np.corrcoef(other.T, one.T)[:300, 300:]
    np.testing.assert_allclose(np.concatenate([part for _, part in blocks]), expected, atol=1e-6)


def test_what_never_varies_correlates_with_nothing() -> None:
    dense = sparse_activations(4, 1)
    dense[:, 1] = 0
    dense[:, 2] = 0.1
    ((_, correlations),) = correlation_blocks(columns_of(dense), columns_of(dense))
    assert (correlations[[1, 2]] == 0).all()
    assert (correlations[:, [1, 2]] == 0).all()
    np.testing.assert_allclose(correlations[[0, 3], [0, 3]], 1, atol=1e-6)


def test_best_matches_equal_a_naive_loop() -> None:
    one, other = sparse_activations(300, 1), sparse_activations(40, 2)
    other[:, :20] += 2 * one[:, 100:120]
    to_other, to_one = match_by_correlation(columns_of(one), columns_of(other))
    full = np.corrcoef(one.T, other.T)[:300, 300:]
    for latent in range(300):
        best = max(range(40), key=lambda place: full[latent, place])
        assert to_other.place[latent] == best
        assert to_other.value[latent] == pytest.approx(full[latent, best], abs=1e-5)
        back = max(range(300), key=lambda place: full[place, best])
        assert to_other.mutual[latent] == (back == latent)
    assert to_one.place[:20].tolist() == list(range(100, 120))
    assert to_one.mutual[:20].all()


def test_of_equally_near_latents_the_first_is_taken_and_one_is_mutual() -> None:
    directions = unit_rows(3, 0)
    to_other, to_one = match_by_cosine(directions, directions[[0, 0, 1, 2]])
    assert to_other.place.tolist() == [0, 2, 3]
    assert to_one.place.tolist() == [0, 0, 1, 2]
    assert to_one.mutual.tolist() == [True, False, True, True]
    dense = sparse_activations(3, 0)
    _, by_correlation = match_by_correlation(columns_of(dense), columns_of(dense[:, [0, 0, 1, 2]]))
    assert by_correlation.place.tolist() == [0, 0, 1, 2]
    assert by_correlation.mutual.tolist() == [True, False, True, True]


def test_a_permuted_copy_is_found_again(match: Callable[..., dict[str, Any]]) -> None:
    dense, decoder = sparse_activations(LATENTS, 1), np.eye(LATENTS, WIDTH)
    order = np.array([3, 0, 5, 1, 4, 2])
    copied = PlantedSAE(3 * dense[:, order], 2 * decoder[order], seed=1)
    tables = match({LATENTS: PlantedSAE(dense, decoder, seed=0)}, {LATENTS: copied})
    forward = tables["matches"].filter(pl.col("sae") == "main")
    assert forward["cosine_latent"].to_list() == np.argsort(order).tolist()
    assert forward["correlation_latent"].to_list() == np.argsort(order).tolist()
    backward = tables["matches"].filter(pl.col("sae") == "replicate")
    assert backward["cosine_latent"].to_list() == order.tolist()
    np.testing.assert_allclose(forward["cosine"], 1, atol=1e-6)
    np.testing.assert_allclose(forward["correlation"], 1, atol=1e-6)
    assert tables["stability"]["stable"].all()
    figures = row_of(tables["comparison"], sae="main")
    for name in ("cosine", "correlation"):
        for figure in ("matched", "mutual", "median", "ceiling"):
            assert figures[f"{name}_{figure}"] == pytest.approx(1)
        assert figures[f"{name}_chance"] == 0
        assert figures[f"{name}_chance_median"] < 0.7
    assert tables["summary"]["stable_latents"] == {str(LATENTS): LATENTS}


def test_unrelated_latents_do_not_match(match: Callable[..., dict[str, Any]]) -> None:
    one = PlantedSAE(sparse_activations(LATENTS, 1), unit_rows(LATENTS, 1), seed=0)
    other = PlantedSAE(sparse_activations(LATENTS, 2), unit_rows(LATENTS, 2), seed=1)
    tables = match({LATENTS: one}, {LATENTS: other})
    assert row_of(tables["comparison"], sae="main")["correlation_matched"] == 0
    assert not tables["stability"].filter(pl.col("cosine") < 0.7)["stable"].any()


def test_a_stable_latent_is_alike_by_decoder_row_or_by_activations(
    match: Callable[..., dict[str, Any]],
) -> None:
    dense, decoder = sparse_activations(3, 1), np.eye(8, WIDTH)
    other = sparse_activations(3, 2)
    other[:, 1] = dense[:, 1]
    one = PlantedSAE(dense, decoder[:3], seed=0)
    tables = match({3: one}, {3: PlantedSAE(other, decoder[[0, 6, 7]], seed=1)})
    assert tables["stability"]["stable"].to_list() == [True, True, False]


def test_silent_and_rare_latents_are_left_out_and_counted(
    match: Callable[..., dict[str, Any]],
) -> None:
    dense, decoder = sparse_activations(LATENTS, 1), np.eye(LATENTS, WIDTH)
    dense[:, 2] = 0
    dense[:, 4] *= np.cumsum(dense[:, 4] > 0) < 10
    decoder[5] = 0
    one = PlantedSAE(dense, decoder, seed=0)
    two = PlantedSAE(dense, decoder, seed=1)
    tables = match({LATENTS: one}, {LATENTS: two})
    live = [0, 1, 3]
    assert tables["matches"].filter(pl.col("sae") == "main")["latent"].to_list() == live
    assert tables["stability"]["latent"].to_list() == live
    figures = row_of(tables["comparison"], sae="main")
    assert (figures["live"], figures["rare"], figures["silent"]) == (3, 2, 1)


def test_an_sae_without_live_latents(match: Callable[..., dict[str, Any]]) -> None:
    one = PlantedSAE(sparse_activations(LATENTS, 1), np.eye(LATENTS, WIDTH), seed=0)
    dead = PlantedSAE(np.zeros((ROWS.rows, LATENTS)), np.eye(LATENTS, WIDTH), seed=1)
    tables = match({LATENTS: one}, {LATENTS: dead})
    assert len(tables["matches"]) == len(tables["stability"]) == len(tables["splits"]) == 0
    assert row_of(tables["comparison"], sae="main")["cosine_matched"] == 0
    assert row_of(tables["comparison"], sae="replicate")["cosine_matched"] is None


def test_parts_of_a_latent_are_a_split_and_copies_are_none(
    match: Callable[..., dict[str, Any]],
) -> None:
    dense = sparse_activations(3, 1)
    half = np.random.default_rng(0).random(ROWS.rows) < 0.5
    parts = np.column_stack(
        [dense[:, 0] * half, dense[:, 0] * ~half, dense[:, 1], dense[:, 1], dense[:, 2]]
    )
    one = PlantedSAE(dense, np.eye(3, WIDTH), seed=0)
    other = PlantedSAE(parts, np.eye(5, WIDTH), seed=1)
    tables = match({3: one}, {5: other})
    assert tables["splits"].select("sae", "k", "other_k", "latent", "other_latent").rows() == [
        ("main", 3, 5, 0, 0),
        ("main", 3, 5, 0, 1),
    ]
    assert tables["splits"]["parts"].to_list() == [2, 2]
    np.testing.assert_allclose(tables["splits"]["joint_correlation"], 1, atol=1e-6)
    np.testing.assert_allclose(tables["splits"]["inside"], 1)
    np.testing.assert_allclose(tables["splits"]["covered"].sum(), 1, atol=1e-6)
    assert row_of(tables["comparison"], sae="main")["split"] == 1
    assert row_of(tables["comparison"], sae="main")["cosine_ceiling"] is None
    assert len(tables["stability"]) == 0


def test_the_ceiling_is_the_replicate_of_the_same_k(match: Callable[..., dict[str, Any]]) -> None:
    def sae(k: int, seed: int) -> PlantedSAE:
        return PlantedSAE(sparse_activations(k, 1), unit_rows(k, 1), seed=seed)

    tables = match({4: sae(4, 0), 6: sae(6, 0)}, {4: sae(4, 1), 6: sae(6, 1)})
    table = tables["comparison"]
    assert len(table) == 8
    for row in table.iter_rows(named=True):
        same = row_of(table, sae=row["sae"], k=row["k"], other_k=row["k"])
        assert row["cosine_ceiling"] == same["cosine_matched"]
        assert row["correlation_ceiling"] == same["correlation_matched"]
    assert tables["matches"].schema == pl.Schema(MATCH_SCHEMA)
    assert tables["comparison"].schema == pl.Schema(MATCH_COMPARISON_SCHEMA)
    assert tables["splits"].schema == pl.Schema(SPLIT_SCHEMA)
    assert tables["stability"].schema == pl.Schema(STABILITY_SCHEMA)


def test_a_rerun_is_unchanged_and_another_seed_moves_chance_only(
    match: Callable[..., dict[str, Any]],
) -> None:
    one = PlantedSAE(sparse_activations(LATENTS, 1), unit_rows(LATENTS, 1), seed=0)
    two = PlantedSAE(sparse_activations(LATENTS, 1), unit_rows(LATENTS, 1), seed=1)
    first = match({LATENTS: one}, {LATENTS: two})
    assert match({LATENTS: one}, {LATENTS: two})["product"].unchanged
    other = match({LATENTS: one}, {LATENTS: two}, seed=5)
    assert first["matches"].equals(other["matches"])
    moved = "cosine_chance_median"
    assert not first["comparison"][moved].equals(other["comparison"][moved])


def test_only_held_out_rows_are_used(match: Callable[..., dict[str, Any]]) -> None:
    training = splits_of(ROWS.ids, None, seed=3) == "train"
    dense = sparse_activations(LATENTS, 1)
    other = dense.copy()
    other[training] = sparse_activations(LATENTS, 2)[training]
    one = PlantedSAE(dense, np.eye(LATENTS, WIDTH), seed=0)
    two = PlantedSAE(other, np.eye(LATENTS, WIDTH), seed=1)
    tables = match({LATENTS: one}, {LATENTS: two}, split_seed=3)
    np.testing.assert_allclose(tables["stability"]["correlation"], 1, atol=1e-6)
    assert tables["summary"]["held_out_rows"] == (~training).sum()


def test_at_most_so_many_rows_evenly_spaced() -> None:
    all_rows, count = held_out_rows(ROWS, 10**6, similarity_clusters=None, split_seed=0)
    assert len(all_rows) == count
    some, of = held_out_rows(ROWS, 50, similarity_clusters=None, split_seed=0)
    assert of == count
    assert len(some) == 50
    assert set(some) <= set(all_rows)
    assert (some[0], some[-1]) == (all_rows[0], all_rows[-1])
    steps = np.diff(np.searchsorted(all_rows, some))
    assert steps.max() - steps.min() <= 1


def planted(seed: int | None, **config: Any) -> PlantedSAE:
    activations = sparse_activations(LATENTS, 1)
    return PlantedSAE(activations, np.eye(LATENTS, WIDTH), seed=seed, **config)


@pytest.mark.parametrize(
    ("saes", "replicates", "says"),
    [
        ({LATENTS: planted(0)}, {}, "no replicate of another seed"),
        ({}, {LATENTS: planted(0)}, "no SAE"),
        ({LATENTS: planted(0)}, {LATENTS: planted(0)}, "both trained from seed 0"),
        ({LATENTS: planted(None)}, {LATENTS: planted(None)}, "both trained from seed None"),
        ({32: planted(0)}, {LATENTS: planted(1)}, "the SAE of k = 32 has k = 6"),
        (
            {LATENTS: planted(0)},
            {LATENTS: planted(1, training={"split": {"seed": 4, "similarity_clusters": None}})},
            "the replicate of k = 6 was trained with another split",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused(
    match: Callable[..., dict[str, Any]], saes: Any, replicates: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        match(saes, replicates)


def test_rows_of_training_proteins_only_are_refused(tmp_path: Path) -> None:
    ids = [name for name in ROWS.ids if splits_of([name], None)[0] == "train"][:20]
    with pytest.raises(InputError, match="none of its proteins falls into"):
        match_latents(
            {LATENTS: planted(0)}, {LATENTS: planted(1)}, NumberedRows(ids), tmp_path / "matches"
        )


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    rows = NumberedRows(ROWS.ids, width=8)
    with pytest.raises(InputError, match="8 wide"):
        match_latents({LATENTS: planted(0)}, {LATENTS: planted(1)}, rows, tmp_path / "matches")
