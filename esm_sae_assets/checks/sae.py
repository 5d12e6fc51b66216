"""Checks of the autoencoders: weights, metrics, and the comparison over k."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import polars as pl

from esm_sae.analysis.verification.model_fidelity import verify_model_fidelity
from esm_sae.formats.manifest import Product
from esm_sae.sae.verification import verify_checkpoint, verify_comparison, verify_metrics
from esm_sae.sharing.verification import verify_release
from esm_sae_assets.checks.history import last_other_figures
from esm_sae_assets.checks.looking import Check, Found, Outputs, look, look_at_each
from esm_sae_assets.settings import CheckSettings

TRAINED = (
    Check(
        "weights_are_sound",
        "Of every k: the weights have their shapes and are finite, files have the hashes of the "
        "manifest, and of one trained here decoder rows have unit norm, and the record of the "
        "training is whole.",
    ),
    Check(
        "latents_are_alive",
        "Of every k: few latents did not fire in the last pass over the training rows.",
        warns=True,
    ),
)
METRICS = (
    Check(
        "metrics_are_sound",
        "Of every k: each figure is there and lies where it can, at most k latents fire on a "
        "row, and figures, histogram and table of latents say the same.",
    ),
    Check(
        "fvu_is_no_worse",
        "Of every k: the FVU on test rows is not much above that of the last other output.",
        warns=True,
    ),
    Check(
        "baselines_are_beaten",
        "Of every k: the FVU is below that of a dictionary that was never trained, and of the "
        "untrained encoder's autoencoder where there is one.",
        warns=True,
    ),
)
FIDELITY = (
    Check(
        "fidelity_adds_up",
        "Of every k: each figure is there and lies where it can, and shares and the table of "
        "amino acids follow from the cross-entropies.",
    ),
    Check(
        "splicing_beats_the_mean",
        "Of every k: the encoder predicts masked residues better from the reconstruction than "
        "from the mean state.",
        warns=True,
    ),
)
COMPARISON = (
    Check(
        "every_k_is_compared",
        "There is one row for every k, with the figures of its metrics.",
    ),
    Check(
        "pca_is_beaten",
        "At every k the FVU is below that of as many principal components.",
        warns=True,
    ),
    Check("fvu_falls_with_k", "The FVU of a larger k is not above that of a smaller.", warns=True),
)


RELEASE = (
    Check(
        "release_is_the_checkpoint",
        "Of every k: files have the hashes of the manifest, and what is read from them is the "
        "checkpoint bit for bit.",
    ),
)


def training_checks(folders: Outputs, limits: CheckSettings) -> list[dg.AssetCheckResult]:
    """Look at the trained autoencoders, by k."""
    sound, alive = TRAINED
    return [
        look_at_each(sound, verify_checkpoint, folders, of="k"),
        look_at_each(alive, lambda trained: _dead(trained, limits.dead_share), folders, of="k"),
    ]


def metrics_checks(
    folders: Outputs, instance: dg.DagsterInstance, limits: CheckSettings
) -> list[dg.AssetCheckResult]:
    """Look at the metrics, by k, and at what Dagster recorded of earlier ones."""
    sound, no_worse, beaten = METRICS
    return [
        look_at_each(sound, verify_metrics, folders, of="k"),
        look_at_each(
            no_worse, lambda product: _risen(product, instance, limits.fvu_rise), folders, of="k"
        ),
        look_at_each(beaten, _against_baselines, folders, of="k"),
    ]


def fidelity_checks(folders: Outputs) -> list[dg.AssetCheckResult]:
    """Look at what the encoder loses by each autoencoder, by k."""
    sound, beaten = FIDELITY
    return [
        look_at_each(sound, verify_model_fidelity, folders, of="k"),
        look_at_each(beaten, _against_the_mean, folders, of="k"),
    ]


def comparison_checks(product: Product, folders: Mapping[int, Path]) -> list[dg.AssetCheckResult]:
    """Look at the comparison of all k."""
    complete, pca, falls = COMPARISON
    return [
        look(complete, lambda: verify_comparison(product, folders)),
        look(pca, lambda: _against_pca(product)),
        look(falls, lambda: _over_k(product)),
    ]


def release_checks(
    folders: Outputs, checkpoint_of: Callable[[int], Path]
) -> list[dg.AssetCheckResult]:
    """Look at the shared autoencoders, by k, beside their checkpoints."""
    (same,) = RELEASE

    def at(product: Product) -> NamedTuple:
        return verify_release(product, checkpoint_of(product.manifest.summary["k"]))

    return [look_at_each(same, at, folders, of="k")]


def _dead(trained: Product, most: float) -> Found:
    share = trained.manifest.summary["dead_share"]
    # An imported one does not tell.
    if share is None or share <= most:
        return Found({"dead_share": share})
    return Found(
        {"dead_share": share},
        f"{share:.1%} of the latents are dead, more than {most:.0%}; raise ESM_SAE_SAE_AUX_ALPHA, "
        "train longer, lower ESM_SAE_SAE_LATENT_DIM, or raise ESM_SAE_CHECKS_DEAD_SHARE",
    )


def _risen(product: Product, instance: dg.DagsterInstance, most: float) -> Found:
    own = product.manifest.summary
    fvu = own["fvu"]
    before = last_other_figures(instance, "sae_metrics", str(own["k"]), product)
    if before is None:
        return Found({"fvu": fvu, "before": "none: this is the first"})
    # As texts: what cannot change within a partition is shown as one.
    if any(str(before.get(name)) != str(own[name]) for name in ("encoder", "latent_dim")):
        return Found({"fvu": fvu, "before": "another encoder or width: not comparable"})
    last = float(before["fvu"])
    figures = {"fvu": fvu, "before": last, "rise": fvu / last - 1}
    if fvu <= last * (1 + most):
        return Found(figures)
    return Found(
        figures,
        f"the FVU rose from {last:.4g} to {fvu:.4g}, by more than {most:.0%}; look at what "
        "changed before it: the sample, the settings, or the training's record, and train again; "
        "where it is meant, raise ESM_SAE_CHECKS_FVU_RISE",
    )


def _against_baselines(product: Product) -> Found:
    metrics = product.manifest.summary
    fvu = metrics["fvu"]
    rivals = {
        "random_dictionary_fvu": "of a dictionary that was never trained",
        "untrained_fvu": "of the untrained encoder's autoencoder",
    }
    known = {name: metrics[name] for name in rivals if metrics[name] is not None}
    better = [f"{value:.4g} {rivals[name]}" for name, value in known.items() if value <= fvu]
    if not better:
        return Found({"fvu": fvu, **known})
    return Found(
        {"fvu": fvu, **known},
        f"the FVU of {fvu:.4g} is not below {' and '.join(better)}: nothing was learned that "
        "these have not; train longer, or look at the training's record",
    )


def _against_the_mean(product: Product) -> Found:
    found = product.manifest.summary
    spliced, mean = found["cross_entropy_spliced"], found["cross_entropy_mean"]
    figures = {"cross_entropy_spliced": spliced, "cross_entropy_mean": mean}
    if spliced <= mean:
        return Found(figures)
    return Found(
        figures,
        f"with the reconstruction spliced in the encoder loses more than with the mean state: "
        f"cross-entropy {spliced:.4g} and {mean:.4g} nats; train longer or with a larger k, and "
        "look at the FVU",
    )


def _against_pca(product: Product) -> Found:
    better = product.manifest.summary["pca_is_better_at_k"]
    figures = {
        f"{name} at k = {row['k']}": row[name]
        for row in _rows(product)
        for name in ("fvu", "pca_fvu")
    }
    if not better:
        return Found(figures)
    return Found(
        figures,
        f"principal components reconstruct better at k = {', '.join(map(str, better))}; train "
        "longer or with more latents, or read those k for their sparsity alone",
    )


def _over_k(product: Product) -> Found:
    rows = _rows(product)
    figures = {f"fvu at k = {row['k']}": row["fvu"] for row in rows}
    rising = [
        f"{larger['k']} ({larger['fvu']:.4g}, at k = {smaller['k']} {smaller['fvu']:.4g})"
        for smaller, larger in itertools.pairwise(rows)
        if larger["fvu"] > smaller["fvu"]
    ]
    if not rising:
        return Found(figures)
    return Found(
        figures,
        f"the FVU rises at k = {', '.join(rising)}: with more latents to fire it should fall; "
        "look at the training of that k, and train it again with another seed",
    )


def _rows(product: Product) -> list[dict[str, float]]:
    table = pl.read_parquet(product.path / "comparison.parquet")
    return table.sort("k").to_dicts()
