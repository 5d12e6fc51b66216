"""Checks of the analysis: activations, taxa, concepts, matches and the summary of latents."""

from pathlib import Path

import dagster as dg

from esm_sae.analysis.verification.activations import verify_activations
from esm_sae.analysis.verification.latents import chance_of_matches, verify_latents, verify_matches
from esm_sae.analysis.verification.summary import verify_summary
from esm_sae.analysis.verification.taxonomy import verify_taxonomy
from esm_sae.formats.manifest import Product
from esm_sae_assets.checks.looking import Check, Found, Outputs, look, look_at_each
from esm_sae_assets.settings import CheckSettings

ACTIVATIONS = (
    Check(
        "activations_are_sound",
        "Of every k: the four tables have the same latents, proteins, rows and activations; of "
        "two files by row at most k latents fire on a row (TopK), and every activation is above 0.",
    ),
    Check("latents_fire", "Of every k: few latents fire on no row at all.", warns=True),
)
TAXONOMY = (
    Check(
        "figures_are_possible",
        "Of every k: frequencies, p and q lie within 0 to 1, no more proteins fire than there "
        "are, the frequencies of a taxon add up to 1, and the mapping names taxa that exist.",
    ),
    Check("taxa_are_tested", "Of every k: pairs of latent and taxon could be tested.", warns=True),
)
LATENTS = (
    Check(
        "latents_add_up",
        "Of every k: live, rare and silent latents are all of them; cosines, correlations and F1 "
        "lie within their bounds.",
    ),
    Check("latents_differ", "Of every k: few live latents are nearly another's copy.", warns=True),
)
MATCHES = (
    Check(
        "matches_add_up",
        "Every ordered pair of autoencoders has a row, live, rare and silent latents are as many "
        "in each, and cosines and shares lie within their bounds.",
    ),
    Check(
        "latents_are_found_again",
        "At every k another seed finds more of the latents than chance does.",
        warns=True,
    ),
)
SUMMARY = (
    Check(
        "every_latent_has_a_row",
        "Of every k: the rows are latents 0 to L - 1 with what the table of activations says of "
        "them, scores lie within 0 to 1, and latents that fire name proteins.",
    ),
    Check("latents_are_labelled", "Of every k: some latent has a label.", warns=True),
)


def activation_checks(folders: Outputs, limits: CheckSettings) -> list[dg.AssetCheckResult]:
    """Look at the activations, by k."""
    sound, fire = ACTIVATIONS
    return [
        look_at_each(sound, verify_activations, folders, of="k"),
        look_at_each(fire, lambda product: _silent(product, limits.silent_share), folders, of="k"),
    ]


def taxonomy_checks(folders: Outputs) -> list[dg.AssetCheckResult]:
    """Look at the taxa of latents, by k."""
    possible, tested = TAXONOMY
    return [
        look_at_each(possible, verify_taxonomy, folders, of="k"),
        look_at_each(tested, _tested, folders, of="k"),
    ]


def latent_checks(folders: Outputs, limits: CheckSettings) -> list[dg.AssetCheckResult]:
    """Look at how latents compare, by k."""
    sound, differ = LATENTS
    return [
        look_at_each(sound, verify_latents, folders, of="k"),
        look_at_each(
            differ, lambda product: _duplicated(product, limits.duplicated_share), folders, of="k"
        ),
    ]


def match_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at the matches between autoencoders."""
    sound, again = MATCHES
    return [
        look(sound, lambda: verify_matches(product)),
        look(again, lambda: _found_again(product)),
    ]


def summary_checks(tables: Outputs, activations: Path) -> list[dg.AssetCheckResult]:
    """Look at the summaries, by k; that of these activations is compared with them."""
    complete, labelled = SUMMARY
    return [
        look_at_each(
            complete, lambda product: verify_summary(product, activations), tables, of="k"
        ),
        look_at_each(labelled, _labelled, tables, of="k"),
    ]


def _silent(product: Product, most: float) -> Found:
    counts = product.manifest.summary
    share = counts["silent_latents"] / counts["latents"]
    if share <= most:
        return Found({"silent_share": share})
    return Found(
        {"silent_share": share},
        f"{counts['silent_latents']:,} of {counts['latents']:,} latents ({share:.1%}) never fire, "
        f"more than {most:.0%}; train with fewer latents or a larger k, or raise "
        "ESM_SAE_CHECKS_SILENT_SHARE",
    )


def _tested(product: Product) -> Found:
    counts = product.manifest.summary
    figures = {name: counts[name] for name in ("tested_pairs", "significant_pairs", "taxa")}
    if counts["tested_pairs"] and counts["firing_latents"]:
        return Found(figures)
    return Found(
        figures,
        f"of {counts['taxa']} taxa and {counts['firing_latents']:,} latents that fire no pair "
        "could be tested; sample more proteins of each taxon (ESM_SAE_CLUSTERS_PER_TAXON, "
        "ESM_SAE_CLUSTERS_TAXON_MIN_SIZE)",
    )


def _duplicated(product: Product, most: float) -> Found:
    counts = product.manifest.summary
    live, twins = counts["live_latents"], counts["latents_with_near_duplicate"]
    share = twins / live if live else 0.0
    if share <= most:
        return Found({"duplicated_share": share})
    return Found(
        {"duplicated_share": share},
        f"{twins:,} of {live:,} live latents ({share:.1%}) are nearly the same as another, more "
        f"than {most:.0%}; train with fewer latents, or raise ESM_SAE_CHECKS_DUPLICATED_SHARE",
    )


def _found_again(product: Product) -> Found:
    shares = chance_of_matches(product)
    figures = {
        f"{what} at k = {k}": share
        for k, pair in shares.items()
        for what, share in zip(("matched", "by chance"), pair, strict=True)
    }
    lost = [str(k) for k, (matched, chance) in shares.items() if matched <= chance]
    if not lost:
        return Found(figures)
    return Found(
        figures,
        f"at k = {', '.join(lost)} another seed finds no more of the latents than chance does: "
        "what they tell is owed to the initial weights; train longer or on more rows",
    )


def _labelled(product: Product) -> Found:
    counts = product.manifest.summary
    none = counts["labels"].get("none", 0)
    labelled = counts["latents"] - none
    figures = {"labelled_latents": labelled, "with_concept": counts["latents_with_concept"]}
    if labelled:
        return Found(figures)
    return Found(
        figures,
        f"none of {counts['firing_latents']:,} latents that fire has a label; look at the check of "
        "feature_concepts, and train longer or give annotations (ESM_SAE_ANALYSIS_ANNOTATIONS)",
    )
