"""In how many proteins of each taxon each latent fires: a description of these proteins."""

import polars as pl

_NORMAL_975 = 1.959963984540054


def taxon_frequencies(pairs: pl.DataFrame, taxa: list[str]) -> pl.DataFrame:
    """Count firing proteins per latent and taxon.

    Args:
        pairs: one row per protein and latent that fires on it: protein, latent, activation.
        taxa: the taxon of each protein.

    Returns:
        The descriptive columns of the table of ``feature_taxonomy``, sorted by latent and taxon;
        a row for each pair that fires at least once.
    """
    of_protein = pl.Series("taxon", taxa, dtype=pl.String)
    sizes = of_protein.value_counts(name="proteins")
    counts = (
        pairs.with_columns(of_protein.gather(pairs["protein"]))
        .sort("latent", "taxon", "protein")
        .group_by("latent", "taxon", maintain_order=True)
        .agg(firing_proteins=pl.len(), mean_activation=pl.col("activation").mean())
        .join(sizes, on="taxon", how="left", maintain_order="left")
    )
    firing, size = pl.col("firing_proteins").cast(pl.Int64), pl.col("proteins").cast(pl.Int64)
    other_firing, other_size = firing.sum().over("latent") - firing, len(taxa) - size
    ratio = ((firing + 0.5) / (size + 1)) / ((other_firing + 0.5) / (other_size + 1))
    low, high = _wilson(firing, size)
    return counts.select(
        "latent",
        "taxon",
        "proteins",
        "firing_proteins",
        firing_frequency=firing / size,
        frequency_low=low,
        frequency_high=high,
        mean_activation="mean_activation",
        normalized_frequency=firing / firing.sum().over("taxon"),
        other_frequency=pl.when(other_size > 0).then(other_firing / other_size),
        log2_ratio=pl.when(other_size > 0).then(ratio.log(2)),
    )


def _wilson(hits: pl.Expr, size: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return the bounds of the 95% score interval of Wilson (1927, J. Am. Stat. Assoc. 22:209)."""
    z = _NORMAL_975
    centre = (hits + z**2 / 2) / (size + z**2)
    margin = z * (hits * (size - hits) / size + z**2 / 4).sqrt() / (size + z**2)
    # Rounding must not leave the bounds a hair outside.
    return (centre - margin).clip(0, 1), (centre + margin).clip(0, 1)
