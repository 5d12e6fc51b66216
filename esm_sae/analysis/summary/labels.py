"""One-line labels of latents, drafted from training proteins and scored on held-out ones."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.analysis.latent_blocks import LatentBlock, latent_blocks
from esm_sae.analysis.queries import activation_parts
from esm_sae.analysis.summary import label_sources
from esm_sae.analysis.summary.label_scores import Draft, thresholds_of
from esm_sae.analysis.summary.protein_statements import ProteinDrafts, Statements
from esm_sae.analysis.summary.residue_labels import residue_drafts
from esm_sae.analysis.summary.residue_statements import ResidueStatements
from esm_sae.formats.analysis_tables import SUMMARY_ADDITIONS

# A label of less skill in training than this is none.
_LEAST_SKILL = 0.2

SCHEMA = {"latent": pl.UInt32} | {
    name: dtype for name, dtype in SUMMARY_ADDITIONS.items() if name.startswith("label")
}


def label_latents(
    activations: Path,
    taxonomy: Path,
    sequences: pl.DataFrame,
    training: np.ndarray,
    annotations: Path | None,
) -> pl.DataFrame:
    """Draft a label for each latent from training proteins and score it on held-out ones.

    A label is a statement about proteins (their family by name, a concept, a taxon that passed
    the test) or about residues (amino acids, neighbours, places, concepts) that predicts where a
    latent is active: at all, or above a quarter or a half of its maximum in training, whichever
    the label tells best. Of all that can be said the statement with the highest skill in training
    is taken, see ``skill_of``; one that too few held-out units bear to be scored only where there
    is no other. Below a skill of 0.2 there is no label.

    Args:
        activations: folder of ``compute_activations``.
        taxonomy: folder of ``feature_taxonomy``.
        sequences: its table of proteins.
        training: (P,) bool, the proteins that labels are drafted from; the others are held out.
        annotations: table of ``annotate_concepts``, or None.

    Returns:
        All L latents, with

        - label, which ends in 'above x' where only activations above x count as active; and
          label_kind: family, concept, taxon, residue, position or none.
        - label_level: protein or residue, what it was counted on.
        - label_threshold: the activation that counts as active is above this.
        - label_score: F1 on held-out proteins or residues; null where fewer than 5 proteins or 25
          residues of them bear the label.
        - label_precision, label_recall: the share of held-out bearers on which the latent is
          active, and the share of where it is active that the label tells; null with the score.
        - label_baseline: F1 of 'it is active everywhere' on the same; a score must be above it.
        - label_held_out: how many held-out proteins or residues bear the label.
    """
    of_residues = bool(sequences["sequence"].is_not_null().any())
    ids = sequences["sequence_id"]
    sources = [
        label_sources.families(sequences["header"], training),
        *_concepts(annotations, ids, positions=not of_residues),
        label_sources.taxa(sequences["taxon"], taxonomy),
    ]
    finders = [ProteinDrafts(statements, training) for statements in sources if statements.texts]
    best: dict[int, Draft] = {}
    thresholds = []
    for block in latent_blocks(activations):
        thresholds.append(thresholds_of(_maxima(block, training)))
        for finder in finders:
            _keep_better(best, finder.drafts(block, thresholds[-1]))
    latents = np.concatenate(thresholds, axis=1)
    if of_residues:
        stretches = None
        if annotations is not None:
            stretches = label_sources.residue_concepts(annotations, ids, training)
        statements = ResidueStatements(sequences["sequence"], stretches)
        parts = activation_parts(activations)
        _keep_better(best, residue_drafts(parts, statements, training, latents).items())
    return _table(best, latents.shape[1])


def _concepts(annotations: Path | None, ids: pl.Series, *, positions: bool) -> list[Statements]:
    if annotations is None:
        return []
    return label_sources.protein_concepts(annotations, ids, positions=positions)


def _maxima(block: LatentBlock, training: np.ndarray) -> np.ndarray:
    """Return the highest activation of each latent on training proteins, 0 where there is none."""
    maxima = np.zeros(len(block.latents), dtype=np.float32)
    latent = np.repeat(np.arange(len(maxima)), np.diff(block.starts))
    known = training[block.pairs["protein"].to_numpy()]
    np.maximum.at(maxima, latent[known], block.pairs["activation"].to_numpy()[known])
    return maxima


def _keep_better(best: dict[int, Draft], drafts: Iterable[tuple[int, Draft]]) -> None:
    for latent, draft in drafts:
        kept = best.get(latent)
        if draft.skill >= _LEAST_SKILL and (kept is None or _rank(draft) > _rank(kept)):
            best[latent] = draft


def _rank(draft: Draft) -> tuple[bool, float]:
    """Order drafts. That one can be scored tells nothing of where the latent fires."""
    return draft.score is not None, draft.skill


def _table(best: dict[int, Draft], latents: int) -> pl.DataFrame:
    rows = [
        {"latent": latent, **(_row(best[latent]) if latent in best else {"label_kind": "none"})}
        for latent in range(latents)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _row(draft: Draft) -> dict[str, str | float | None]:
    scored = draft.score is not None
    above = f" (above {draft.threshold:.3g})" if draft.threshold > 0 else ""
    return {
        "label": draft.text + above,
        "label_kind": draft.kind,
        "label_level": draft.level,
        "label_threshold": draft.threshold,
        "label_score": draft.score,
        "label_precision": draft.held_out.precision if scored else None,
        "label_recall": draft.held_out.recall if scored else None,
        "label_baseline": draft.held_out.baseline if scored else None,
        "label_held_out": draft.held_out.bearers,
    }
