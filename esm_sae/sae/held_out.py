"""One pass over held-out rows, for all that is measured on them."""

from dataclasses import dataclass

import polars as pl

from esm_sae.formats.shards import EmbeddingShards
from esm_sae.progress import progress
from esm_sae.sae.baselines import PcaMeter
from esm_sae.sae.fidelity import Fidelity, FidelityMeter, rows_per_block
from esm_sae.sae.inference import SAE
from esm_sae.sae.latents import Firing, FiringMeter
from esm_sae.sae.rows import RowRuns, read_rows
from esm_sae.sae.scaling import RowStatistics
from esm_sae.sae.subgroups import SubgroupMeter


@dataclass(frozen=True)
class HeldOut:
    """What is measured on held-out rows.

    Attributes:
        fidelity: of the SAE.
        firing: of its latents.
        subgroups: ``SubgroupMeter.table``.
        pca_fvu: FVU of PCA with k components.
        dictionary_fvu: FVU of the dictionary that was never trained.
    """

    fidelity: Fidelity
    firing: Firing
    subgroups: pl.DataFrame
    pca_fvu: float
    dictionary_fvu: float


def measure_held_out(
    sae: SAE, dictionary: SAE, shards: EmbeddingShards, rows: RowRuns, statistics: RowStatistics
) -> HeldOut:
    """Measure an SAE and what it is held against, reading each row once.

    Args:
        sae: the SAE.
        dictionary: as ``baselines.random_dictionary`` makes it.
        shards: the embedding matrices.
        rows: the held-out rows, one or more, and all rows of a protein or none.
        statistics: of the training rows, with their covariance.

    Raises:
        InputError: a row holds NaN or infinity.
    """
    fidelity, of_dictionary = FidelityMeter(statistics), FidelityMeter(statistics)
    firing = FiringMeter(sae.config.latent_dim, sae.config.k)
    subgroups, pca = SubgroupMeter(shards), PcaMeter(statistics, sae.config.k)
    with progress(len(rows), unit="rows", description=f"evaluating k={sae.config.k}") as bar:
        for numbers in rows.blocks(rows_per_block(sae.config.latent_dim)):
            block = read_rows(shards, numbers)
            values, latents, again = sae.encode_and_reconstruct(block)
            firing.add(values, latents)
            errors, distances = fidelity.add(block, again), pca.add(block)
            subgroups.add(numbers, errors, distances)
            of_dictionary.add(block, dictionary.reconstruct(block))
            bar.update(len(block))
    return HeldOut(
        fidelity.result(),
        firing.result(),
        subgroups.table(statistics.variance),
        pca.fvu,
        of_dictionary.result().fvu,
    )
