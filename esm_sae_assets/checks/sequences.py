"""Checks of the sequences: the source and the two samples."""

import dagster as dg

from esm_sae.formats.manifest import Product
from esm_sae.sequences.verification import verify_sample, verify_source
from esm_sae_assets.checks.looking import Check, Found, look
from esm_sae_assets.settings import CheckSettings

SOURCE = (
    Check(
        "source_is_as_recorded",
        "The file is there with the size and, where the data root has it, the hash that were "
        "recorded, and its first 64 records read as FASTA.",
    ),
)
SAMPLE = (
    Check(
        "index_fits_fasta",
        "Counts of records and residues add up, every record has an id and a length within the "
        "limits, and 64 records drawn by a fixed seed are in the FASTA what the index says.",
    ),
    Check(
        "taxa_are_known",
        "Few records tell no taxon: without it a protein is in no analysis of taxa.",
        warns=True,
    ),
)


def source_checks(product: Product) -> list[dg.AssetCheckResult]:
    """Look at the source."""
    (as_recorded,) = SOURCE
    return [look(as_recorded, lambda: verify_source(product))]


def sample_checks(product: Product, limits: CheckSettings) -> list[dg.AssetCheckResult]:
    """Look at a sample."""
    fits, known = SAMPLE
    return [
        look(fits, lambda: verify_sample(product)),
        look(known, lambda: _taxa(product, limits.unknown_taxa_share)),
    ]


def _taxa(product: Product, most: float) -> Found:
    counts = product.manifest.summary
    without, sampled = counts["without_taxon"], counts["sampled"]
    share = without / sampled
    figures = {
        "without_taxon": without,
        "share": share,
        "unrecognised_headers": counts["unrecognised_headers"],
        "at_most": f"{most:.0%}",
    }
    if share <= most:
        return Found(figures)
    return Found(
        figures,
        f"{without:,} of {sampled:,} records ({share:.1%}) tell no taxon, more than {most:.0%}; "
        "give headers in the style of UniRef or UniProtKB, or raise ESM_SAE_CHECKS_"
        "UNKNOWN_TAXA_SHARE",
    )
