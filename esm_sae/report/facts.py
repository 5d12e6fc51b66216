"""The figures and the provenance that head the report, in words."""

from typing import Any, NamedTuple

import polars as pl

from esm_sae.formats.activation_names import activation_of
from esm_sae.formats.checkpoint import SAEConfig

# A name is telling that goes at least half the way from one that says nothing to a perfect one.
SKILL = 0.5


class Fact(NamedTuple):
    """A figure with its name and one line that says what it is."""

    name: str
    value: str
    meaning: str


def headline(
    config: SAEConfig, counts: dict[str, Any], metrics: dict[str, Any], fidelity: dict[str, Any]
) -> list[Fact]:
    """Return the figures at the top of the page; those that were not measured are left out."""
    row = "residues" if config.pooling == "residue" else "proteins"
    activation = activation_of(config)
    meant = activation.with_k(config.k)
    facts = [
        Fact("latents that fire", f"{counts['firing_latents']:,}", f"of {counts['latents']:,}"),
        Fact("proteins", f"{counts['proteins']:,}", _rows_encoded(config, counts)),
        Fact(
            "latents per row",
            f"{counts['mean_l0']:.1f}",
            f"of {meant}" if activation.limits else f"{activation.name}: {meant}",
        ),
    ]
    fvu, pca = metrics.get("fvu"), metrics.get("pca_fvu")
    if fvu is not None:
        facts.append(
            Fact("unexplained variance", _share(fvu), f"FVU on held-out {row}; lower is better")
        )
    if fvu is not None and pca is not None:
        verdict = "the SAE is better" if fvu < pca else "PCA is better here"
        facts.append(Fact("the same by PCA", _share(pca), f"{config.k} components: {verdict}"))
    recovered = fidelity.get("recovered_of_mean")
    if recovered is not None:
        facts.append(Fact("loss recovered", f"{recovered:.0%}", _of_what_loss(fidelity)))
    dead = metrics.get("dead_share")
    if dead is not None:
        facts.append(
            Fact(
                "dead latents", _share(dead), "silent in training's last pass, weights still moving"
            )
        )
    return facts


def findings(summary: pl.DataFrame, *, families: bool) -> list[Fact]:
    """Return how many latents passed each test, those that were made.

    Args:
        summary: the table of ``summarise_latents``.
        families: whether the taxa were tested with similarity clusters.
    """
    firing = summary.filter(pl.col("firing_rows") > 0)
    skill = (pl.col("label_score") - pl.col("label_baseline")) / (1 - pl.col("label_baseline"))
    tests = (
        (
            "telling names",
            skill >= SKILL,
            "label_score",
            "predict firing, or strong firing, on held-out proteins",
        ),
        (
            "taxonomic latents",
            pl.col("taxonomic"),
            "taxonomic",
            f"enriched in a taxon, in 3 {'families' if families else 'proteins'} or more",
        ),
        ("stable latents", pl.col("stable"), "stable", "found one to one from another seed"),
        (
            "memory",
            pl.col("memory"),
            "memory",
            "90% of the activation in one family, of latents that fire on 3 proteins or more",
        ),
    )
    return [
        Fact(name, f"{firing.filter(passed).height:,}", meaning)
        for name, passed, column, meaning in tests
        if firing[column].null_count() < len(firing)
    ]


def provenance(config: SAEConfig) -> list[tuple[str, str]]:
    """Return what the SAE was trained on and how, as names and values."""
    known = {
        "encoder": config.encoder,
        "encoder note": config.encoder_note,
        "encoder weights (sha256)": config.weights_sha256,
        "layer": config.layer,
        "rows": config.pooling,
        "row width D": config.width,
        "latents L": config.latent_dim,
        "k": config.k,
        "activation": _activation(config),
        "rows normalised": _normalised(config),
        "tied weights": "yes" if config.tied else "no",
        "epochs": config.epochs,
        "seed": config.seed,
        "training data (fingerprint)": config.data_fingerprint,
        "project": config.project,
    }
    known |= {
        f"training: {name.replace('_', ' ')}": _plain(value)
        for name, value in sorted(config.training.items())
    }
    known |= {f"{name} version": value for name, value in sorted(config.versions.items())}
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {part}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value


def _activation(config: SAEConfig) -> str:
    activation = activation_of(config)
    return f"{activation.name}, {activation.with_k(config.k)}"


def _normalised(config: SAEConfig) -> str:
    if not config.normalize:
        return "no"
    return f"yes, ddof {config.normalize_ddof}, epsilon {config.normalize_epsilon:g}"


def _rows_encoded(config: SAEConfig, counts: dict[str, Any]) -> str:
    if config.pooling == "residue":
        return f"{counts['rows']:,} of their residues encoded"
    return "one row each"


def _of_what_loss(fidelity: dict[str, Any]) -> str:
    low, high = (fidelity[f"recovered_of_mean_{end}"] for end in ("low", "high"))
    interval = "" if low is None else f" (95%: {low:.0%} to {high:.0%})"
    clean, mean = (fidelity[f"perplexity_{run}"] for run in ("clean", "mean"))
    return (
        f"in predicting hidden residues{interval}, of what the mean state costs: perplexity "
        f"{clean:.1f} to {mean:.1f}"
    )


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.1 or value == 0 else f"{value:.2%}"
