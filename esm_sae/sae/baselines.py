"""What an SAE is held against: PCA, and a dictionary that was never trained."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from esm_sae import storage
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig
from esm_sae.formats.manifest import fingerprint_of
from esm_sae.formats.shards import EmbeddingShards
from esm_sae.sae.fidelity import covariance_of, rows_per_block
from esm_sae.sae.inference import SAE, load_checkpoint
from esm_sae.sae.model import initial_directions
from esm_sae.sae.rows import RowRuns, SplitChoice, read_rows, split_rows
from esm_sae.sae.scaling import RowStatistics, measure_rows

_MOST_ROWS_FITTED = 8_192


class PcaMeter:
    """Takes rows block by block and measures how well PCA reconstructs them.

    The components are those of the training rows; the (D, D) covariance is held meanwhile.
    """

    def __init__(self, statistics: RowStatistics, components: int) -> None:
        """Take the statistics of the training rows, with covariance, and a number of components."""
        _, vectors = np.linalg.eigh(covariance_of(statistics))
        self._principal = vectors[:, ::-1][:, :components]
        self._statistics = statistics
        self._rows, self._squares = 0, 0.0

    def add(self, rows: np.ndarray) -> np.ndarray:
        """Count rows in, (n, D); return ``|x - mu|^2`` of each, (n,)."""
        centred = rows - self._statistics.mean
        rest = centred - centred @ self._principal @ self._principal.T
        self._squares += float(np.einsum("nd,nd->", rest, rest))
        self._rows += len(rows)
        return np.einsum("nd,nd->n", centred, centred)

    @property
    def fvu(self) -> float:
        """FVU of the rows so far, one or more, as an SAE's is defined."""
        return self._squares / (self._rows * self._statistics.variance)


def random_dictionary(
    config: SAEConfig, shards: EmbeddingShards, train: RowRuns, statistics: RowStatistics
) -> SAE:
    """Return TopK on the directions that an SAE's training began with, never trained.

    The pre-bias is the mean of the training rows. ``x_hat = mu + a z @ dec``: the one scale a is
    fitted by least squares on at most 8,192 evenly spaced training rows (where rows are z-scored,
    so is the mean measured). An SAE that is no better has learnt nothing of the data but where it
    lies.

    Args:
        config: of the SAE that it is held against; of an unknown seed, the directions of seed 0.
        shards: the embedding matrices.
        train: the training rows.
        statistics: theirs.
    """
    rows = train.evenly_spaced(_MOST_ROWS_FITTED)
    if config.normalize:
        statistics = measure_rows(shards, RowRuns.of(rows), normalize=config.z_score)
    weights = _first_directions(config, statistics)
    scale = _least_squares_scale(SAE(weights), _without_latents(weights), shards, rows)
    return SAE(replace(weights, decoder=weights.decoder * np.float32(scale)))


def random_dictionaries(
    checkpoints: Mapping[int, storage.PathLike],
    shards: EmbeddingShards,
    *,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
) -> dict[int, SAE]:
    """Return for SAEs by k the dictionaries that their trainings began with, to encode with.

    As ``random_dictionary``, but not scaled, which no order of activations depends on; and the
    mean is that of at most 8,192 evenly spaced training rows.

    Args:
        checkpoints: training folder or checkpoint file of each k.
        shards: the embedding matrices.
        similarity_clusters: as in the training.
        split_seed: as in the training.

    Raises:
        InputError: a checkpoint or the split can't be read.
    """
    train = split_rows(shards, SplitChoice(similarity_clusters, split_seed)).train
    rows = RowRuns.of(train.evenly_spaced(_MOST_ROWS_FITTED))
    dictionaries = {}
    for k, path in checkpoints.items():
        config = load_checkpoint(path, k=k).config
        weights = _first_directions(config, measure_rows(shards, rows, normalize=config.z_score))
        dictionaries[k] = SAE(
            weights,
            fingerprint_of(
                "random_dictionary",
                {"seed": config.seed or 0, "pre_bias": weights.pre_bias.tolist()},
            ),
        )
    return dictionaries


def _first_directions(config: SAEConfig, statistics: RowStatistics) -> Checkpoint:
    directions = initial_directions(config.width, config.latent_dim, seed=config.seed or 0)
    return Checkpoint(
        encoder=np.ascontiguousarray(directions.T),
        decoder=directions,
        latent_bias=np.zeros(config.latent_dim, dtype=np.float32),
        pre_bias=statistics.mean.astype(np.float32),
        # Thresholds belong to what was trained.
        config=replace(config, activation="topk"),
        path=Path("random dictionary"),
    )


def _without_latents(weights: Checkpoint) -> SAE:
    nothing = np.zeros((1, weights.config.width), dtype=np.float32)
    return SAE(
        replace(
            weights,
            encoder=nothing.T,
            decoder=nothing,
            latent_bias=np.zeros(1, dtype=np.float32),
            config=replace(weights.config, latent_dim=1, k=1),
        )
    )


def _least_squares_scale(sae: SAE, base: SAE, shards: EmbeddingShards, rows: np.ndarray) -> float:
    """Return the factor of what the latents add that brings the reconstruction nearest."""
    dots, squares = 0.0, 0.0
    for numbers in RowRuns.of(rows).blocks(rows_per_block(sae.config.latent_dim)):
        block = read_rows(shards, numbers)
        start = base.reconstruct(block).astype(np.float64)
        added = sae.reconstruct(block) - start
        dots += float(np.einsum("nd,nd->", block - start, added))
        squares += float(np.einsum("nd,nd->", added, added))
    return dots / squares if squares else 0.0
