from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.latent_blocks import LatentBlock, latent_blocks
from esm_sae.analysis.summary.family_entropy import family_entropies
from esm_sae.formats.analysis_tables import LATENTS, PROTEINS


def block_of(fires: list[dict[int, float]]) -> LatentBlock:
    """Return a block of latents, each given by its activations on proteins."""
    ranked = [sorted(one.items(), key=lambda pair: -pair[1]) for one in fires]
    starts = np.cumsum([0, *(len(one) for one in ranked)])
    pairs = [(protein, strength, None) for one in ranked for protein, strength in one]
    schema = {"protein": pl.UInt32, "activation": pl.Float32, "position": pl.Int32}
    table = pl.DataFrame(pairs, schema=schema, orient="row")
    return LatentBlock(range(5, 5 + len(fires)), starts, table)


def entropies(fires: list[dict[int, float]], clusters: list[int]) -> list[dict[str, Any]]:
    """Return the rows of ``family_entropies``."""
    return family_entropies(block_of(fires), np.array(clusters)).to_dicts()


def test_entropy_is_0_in_one_family_and_1_over_families_of_their_own() -> None:
    clusters = [0, 0, 0, 0, 1, 2, 3, 4, *range(5, 30)]
    one, own, silent, single = entropies(
        [{0: 1.0, 1: 9.0, 2: 3.0}, {3: 2.0, 4: 2.0, 5: 2.0, 6: 2.0}, {}, {7: 1.0}], clusters
    )
    assert one == {"latent": 5, "similarity_clusters": 1, "similarity_entropy": 0.0, "memory": True}
    assert own == {
        "latent": 6,
        "similarity_clusters": 4,
        "similarity_entropy": 1.0,
        "memory": False,
    }
    assert silent["similarity_clusters"] == 0
    assert silent["similarity_entropy"] is silent["memory"] is None
    assert single["similarity_clusters"] == 1
    assert single["similarity_entropy"] is single["memory"] is None


def test_entropy_equals_its_formula() -> None:
    generator = np.random.default_rng(0)
    clusters = generator.integers(0, 6, 30).tolist()
    fires = [
        dict(zip(generator.permutation(30)[:n].tolist(), generator.random(n) + 0.1, strict=True))
        for n in (2, 5, 17, 30)
    ]
    everywhere = np.bincount(clusters) / 30
    of_all = -sum(everywhere * np.log(everywhere))
    for one, row in zip(fires, entropies(fires, clusters), strict=True):
        mass: dict[int, float] = {}
        for protein, strength in one.items():
            mass[clusters[protein]] = mass.get(clusters[protein], 0) + float(np.float32(strength))
        share = np.array(list(mass.values())) / sum(mass.values())
        assert row["similarity_clusters"] == len(mass)
        widest = min(np.log(len(one)), of_all)
        expected = -sum(share * np.log(share)) / widest
        assert row["similarity_entropy"] == pytest.approx(min(expected, 1))


def test_firing_on_everything_alike_is_as_spread_as_can_be() -> None:
    clusters = [0, 0, 0, 1, 1, 2]
    (row,) = entropies([dict.fromkeys(range(6), 1.0)], clusters)
    assert row["similarity_entropy"] == pytest.approx(1)
    (row,) = entropies([dict.fromkeys(range(6), 1.0)], [0] * 6)
    assert (row["similarity_entropy"], row["memory"]) == (0.0, True)


def test_memory_needs_three_proteins_and_nine_tenths_of_the_activation() -> None:
    pair, most, less = entropies(
        [{0: 1.0, 1: 1.0}, {0: 5.0, 1: 4.5, 3: 1.0}, {0: 5.0, 1: 3.5, 3: 1.0}], [0, 0, 0, 1]
    )
    assert (pair["memory"], most["memory"], less["memory"]) == (None, True, False)


def test_which_latents_fire_above_a_threshold() -> None:
    block = block_of([{0: 1.0, 2: 3.0}, {}, {1: 2.0, 2: 0.5}])
    assert block.firing(3, np.zeros(3)).toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]
    above = block.firing(3, np.array([2.0, 0.0, 2.0])).toarray()
    assert above.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("pairs", [1, 4, 6, 1000])
def test_blocks_hold_every_latent_once(tmp_path: Path, pairs: int) -> None:
    counts = [0, 3, 0, 7, 1, 1, 2, 0]
    latents = np.repeat(np.arange(8), counts)
    pl.DataFrame({"firing_proteins": counts}, schema={"firing_proteins": pl.UInt32}).write_parquet(
        tmp_path / LATENTS
    )
    numbers = np.arange(14, dtype=np.uint32)
    pl.DataFrame(
        {"latent": latents, "protein": numbers, "activation": 1.0, "position": None}
    ).write_parquet(tmp_path / PROTEINS)
    blocks = list(latent_blocks(tmp_path, pairs=pairs))
    assert [latent for block in blocks for latent in block.latents] == list(range(8))
    assert np.concatenate([np.diff(block.starts) for block in blocks]).tolist() == counts
    held = pl.concat([block.pairs for block in blocks])
    assert held["protein"].to_list() == numbers.tolist()
    assert all(len(block.pairs) <= max(pairs, 7) for block in blocks)
