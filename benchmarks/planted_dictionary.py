"""Rows made of a few known directions, and how much of these a dictionary finds again.

    python benchmarks/planted_dictionary.py --output DIR --rows 1048576 --width 960

A row is a sum of some 20 of the dictionary's unit directions, each times a positive strength
(gamma distributed, mean 1), plus Gaussian noise. How often a direction occurs falls with its rank
as Zipf's law does, with the head flattened. Everything follows from the seed.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROWS_PER_FILE = 65_536
DIRECTIONS = 2048

_ACTIVE = 20
_FLATTENED_RANKS = 10
_STRENGTH_SHAPE = 4.0
_NOISE_SHARE = 0.05
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Planted:
    """A dictionary and how its directions occur.

    Attributes:
        directions: (M, D) float32, unit rows.
        cumulative: (M,), the cumulative probabilities of drawing each.
    """

    directions: np.ndarray
    cumulative: np.ndarray


@dataclass(frozen=True)
class Support:
    """Which directions made each row, or are said to have.

    Attributes:
        keys: ascending int64, ``row * M + direction`` of each pair.
        directions: M.
    """

    keys: np.ndarray
    directions: int


def plant(width: int, *, directions: int = DIRECTIONS, seed: int = 0) -> Planted:
    """Make a dictionary."""
    random = np.random.default_rng([seed, 0])
    rows = random.standard_normal((directions, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = 1.0 / (np.arange(directions) + 1 + _FLATTENED_RANKS)
    return Planted(rows, np.cumsum(weights / weights.sum()))


def draw_rows(planted: Planted, count: int, *, seed: int) -> tuple[np.ndarray, Support]:
    """Draw rows, (count, D) float32, and what they are made of."""
    blocks, keys = [], []
    size = len(planted.directions)
    for number, block in enumerate(_blocks(planted, count, seed)):
        blocks.append(block[0])
        keys.append(block[1] + number * _ROWS_PER_BLOCK * size)
    return np.concatenate(blocks), Support(np.concatenate(keys), size)


def write_rows(
    planted: Planted, count: int, output: Path, *, seed: int, rows_per_file: int = ROWS_PER_FILE
) -> None:
    """Write rows as plain ``.npy`` matrices, ``rows_00000.npy`` first, holding a block in memory.

    Args:
        planted: the dictionary.
        count: number of rows.
        output: folder of the matrices.
        seed: of the rows.
        rows_per_file: a multiple of 4,096, or ``count``.
    """
    output.mkdir(parents=True, exist_ok=True)
    width = planted.directions.shape[1]
    blocks = _blocks(planted, count, seed)
    for number, start in enumerate(range(0, count, rows_per_file)):
        size = min(rows_per_file, count - start)
        matrix = np.lib.format.open_memmap(
            output / f"rows_{number:05d}.npy", mode="w+", dtype=np.float32, shape=(size, width)
        )
        for at in range(0, size, _ROWS_PER_BLOCK):
            block, _ = next(blocks)
            matrix[at : at + len(block)] = block
        matrix.flush()


def mean_max_cosine(planted: Planted, decoder: np.ndarray) -> float:
    """Return the mean over the true directions of the largest cosine to a decoder row."""
    return float((planted.directions @ _unit(decoder).T).max(1).mean())


def support_of(planted: Planted, decoder: np.ndarray, fired: list[np.ndarray]) -> Support:
    """Say what made each row: for each latent that fired, the direction nearest to its decoder row.

    Args:
        planted: the true dictionary.
        decoder: (L, D).
        fired: of each row, the latents that fired.
    """
    nearest = (_unit(decoder) @ planted.directions.T).argmax(1)
    size = len(planted.directions)
    keys = np.concatenate([row * size + nearest[latents] for row, latents in enumerate(fired)])
    return Support(np.unique(keys), size)


def support_f1(true: Support, found: Support) -> float:
    """Return the F1 score over all pairs of a row and a direction."""
    hits = len(np.intersect1d(true.keys, found.keys, assume_unique=True))
    return 2 * hits / (len(true.keys) + len(found.keys))


def best_f1(true: Support, rows: int, k: int) -> float:
    """Return the F1 score of k directions per row with as many true ones among them as can be."""
    active = np.bincount(true.keys // true.directions, minlength=rows)
    return float(2 * np.minimum(active, k).sum() / (active.sum() + rows * k))


def _blocks(planted: Planted, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of rows with their pairs ``row in block * M + direction``."""
    size, width = planted.directions.shape
    strength = 1 / _STRENGTH_SHAPE
    energy = _ACTIVE * (1 + strength)
    noise = np.float32(np.sqrt(_NOISE_SHARE * energy / width))
    random = np.random.default_rng([seed, 1])
    for start in range(0, count, _ROWS_PER_BLOCK):
        rows = min(_ROWS_PER_BLOCK, count - start)
        drawn = random.poisson(_ACTIVE, size=rows)
        of_row = np.repeat(np.arange(rows), drawn)
        chosen = np.searchsorted(planted.cumulative, random.random(len(of_row)))
        # A rounded last sum may fall short of 1.
        keys = np.unique(of_row * size + np.minimum(chosen, size - 1))
        codes = np.zeros(rows * size, dtype=np.float32)
        codes[keys] = random.gamma(_STRENGTH_SHAPE, strength, size=len(keys))
        block = codes.reshape(rows, size) @ planted.directions
        block += noise * random.standard_normal(block.shape, dtype=np.float32)
        yield block, keys


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def main() -> None:
    """Write rows as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="folder of the matrices")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--directions", type=int, default=DIRECTIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-one-file", action="store_true", help="not in files of 65,536 rows")
    arguments = parser.parse_args()
    planted = plant(arguments.width, directions=arguments.directions, seed=arguments.seed)
    write_rows(
        planted,
        arguments.rows,
        arguments.output,
        seed=arguments.seed,
        rows_per_file=arguments.rows if arguments.in_one_file else ROWS_PER_FILE,
    )


if __name__ == "__main__":
    main()
