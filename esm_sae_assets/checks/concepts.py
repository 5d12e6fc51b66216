"""Checks of the concepts: annotations, baselines, and what latents mark."""

from pathlib import Path

import dagster as dg

from esm_sae.analysis.verification.concepts import (
    verify_annotations,
    verify_baselines,
    verify_concepts,
)
from esm_sae.formats.manifest import Product
from esm_sae_assets.checks.looking import Check, Found, Outputs, look, look_at_each

ANNOTATIONS = (
    Check(
        "annotations_fit_sample",
        "Every annotation is of a protein of the sample and lies within it; annotations, concepts "
        "and the proteins that each source tells of add up.",
    ),
    Check("concepts_are_known", "Something is known of some protein.", warns=True),
)
BASELINES = (
    Check(
        "methods_are_scored",
        "Every method has one row for each level and k, with all eligible concepts, and F1 and "
        "AUROC lie within 0 to 1.",
    ),
    Check("concepts_can_be_judged", "Some concept has enough positives to be scored.", warns=True),
)
CONCEPTS = (
    Check(
        "scores_are_possible",
        "Of every k: precision, recall, F1 and AUROC lie within 0 to 1 and F1 within its "
        "interval; every eligible concept that any latent fires on has chosen one latent.",
    ),
    Check(
        "a_concept_is_marked",
        "Of every k: some latent marks a concept better than calling everything does.",
        warns=True,
    ),
)


def annotation_checks(product: Product, fasta: Path) -> list[dg.AssetCheckResult]:
    """Look at the annotations."""
    fits, known = ANNOTATIONS
    return [
        look(fits, lambda: verify_annotations(product, fasta)),
        look(known, lambda: _known(product)),
    ]


def baseline_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at the baselines."""
    scored, judged = BASELINES
    return [
        look(scored, lambda: verify_baselines(product)),
        look(judged, lambda: _judged(product)),
    ]


def concept_checks(folders: Outputs) -> list[dg.AssetCheckResult]:
    """Look at what latents mark, by k."""
    possible, marked = CONCEPTS
    return [
        look_at_each(possible, verify_concepts, folders, of="k"),
        look_at_each(marked, _marked, folders, of="k"),
    ]


def _known(product: Product) -> Found:
    counts = product.manifest.summary
    concepts = {f"concepts of {name}": of["concepts"] for name, of in counts["sources"].items()}
    if any(concepts.values()):
        return Found(concepts)
    return Found(
        concepts,
        f"no concept is known of {counts['proteins']:,} proteins: headers name no family and "
        "sequences show no motif; give annotations (ESM_SAE_ANALYSIS_ANNOTATIONS)",
    )


def _judged(product: Product) -> Found:
    levels = product.manifest.summary["levels"]
    eligible = {f"eligible by {name}": of["eligible_concepts"] for name, of in levels.items()}
    if any(eligible.values()):
        return Found(eligible)
    return Found(
        eligible,
        "no concept has enough positives among the held-out proteins; embed more proteins, or "
        "lower ESM_SAE_ANALYSIS_MIN_POSITIVES",
    )


def _marked(product: Product) -> Found:
    found = verify_concepts(product)
    figures = {"marked_concepts": found.marked_concepts, "best_skill": found.best_skill}
    if found.marked_concepts:
        return Found(figures)
    return Found(
        figures,
        f"of {found.eligible_concepts} concepts that can be judged no latent marks one; train "
        "longer or with more latents, or give more annotations (ESM_SAE_ANALYSIS_ANNOTATIONS)",
    )
