from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis import scan_activations, summarise_latents
from esm_sae.analysis.residues import residue_table

Run = Callable[..., dict[str, Path]]


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_one_row_per_latent_the_silent_ones_too(
    fake_sae: Any, analysis_run: Run, pooling: str
) -> None:
    run = analysis_run(fake_sae(pooling=pooling))
    summary = pl.read_parquet(run["summary"])
    assert summary["latent"].to_list() == list(range(24))
    silent = summary.filter(pl.col("firing_rows") == 0)
    assert {22, 23} <= set(silent["latent"])
    assert silent["top_proteins"].list.len().to_list() == [0] * len(silent)
    for column in ("top_taxon", "top_residue", "common_name"):
        assert silent[column].null_count() == len(silent)


def test_top_proteins_are_the_strongest_with_their_names(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    pairs = pl.read_parquet(run["activations"] / "proteins.parquet")
    for row in pl.read_parquet(run["summary"]).iter_rows(named=True):
        ranked = pairs.filter(pl.col("latent") == row["latent"]).sort(
            "activation", descending=True, maintain_order=True
        )
        top = row["top_proteins"]
        assert [entry["activation"] for entry in top] == ranked["activation"].head(10).to_list()
        assert [entry["position"] for entry in top] == ranked["position"].head(10).to_list()
        for entry in top:
            assert entry["sequence_id"] == f"tr|P{entry['protein']:05d}|P_TEST"
            assert entry["name"] == f"Protein {entry['protein']}"


def test_names_that_say_nothing_are_not_common(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(), header="tr|P{0}|P_TEST Uncharacterized protein OS=Some taxon")
    assert pl.read_parquet(run["summary"])["common_name"].null_count() == 24


def test_fragments_bear_the_name_of_the_whole(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(), header="tr|P{0}|P_TEST Kinase (Fragment) OS=Some taxon")
    firing = pl.read_parquet(run["summary"]).filter(pl.col("firing_rows") > 0)
    assert set(firing["common_name"]) == {"Kinase"}
    assert (firing["common_name_count"] == firing["top_proteins"].list.len()).all()


def test_residue_shares_equal_counting_letters(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    sequences = pl.read_parquet(run["activations"] / "sequences.parquet")["sequence"].to_list()
    entries = scan_activations(run["activations"]).collect()
    letters: dict[int, Counter[str]] = {}
    for row in entries.iter_rows(named=True):
        letter = sequences[row["protein"]][row["position"] - 1]
        letters.setdefault(row["latent"], Counter())[letter] += 1
    background = Counter("".join(sequences))
    for row in pl.read_parquet(run["summary"]).iter_rows(named=True):
        if row["latent"] not in letters:
            continue
        counts = letters[row["latent"]]
        shares = [counts[letter] / counts.total() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        np.testing.assert_allclose(row["residues"], shares)
        assert row["top_residue_share"] == pytest.approx(max(shares))
        assert row["top_residue_background"] == pytest.approx(
            background[row["top_residue"]] / background.total()
        )


def test_protein_rows_have_no_residues(fake_sae: Any, analysis_run: Run) -> None:
    summary = pl.read_parquet(analysis_run(fake_sae())["summary"])
    assert summary["top_residue"].null_count() == summary["residues"].null_count() == 24


def test_repeated_run_is_unchanged(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae())
    again = summarise_latents(run["activations"], run["taxonomy"], run["summary"])
    assert again.unchanged


def test_lower_case_residues_count_as_their_letters(tmp_path: Path) -> None:
    part = tmp_path / "00000.parquet"
    pl.DataFrame(
        {"row": [0, 1], "protein": [0, 0], "position": [1, 2], "latent": [0, 1]}
    ).write_parquet(part)
    sequences = pl.DataFrame({"protein": [0], "sequence": ["mK"]})
    table = residue_table([part], sequences, 3)
    assert table.select("latent", "top_residue").rows() == [(0, "M"), (1, "K")]
