"""A second look at what a model loses by an SAE: whether the figures are possible and add up."""

import math
from typing import Any, NamedTuple

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import FIDELITY_BY_RESIDUE, MODEL_FIDELITY
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import (
    AGAIN,
    outside,
    refuse_rows,
    require_equal,
    require_figures,
    require_files,
    scan_table,
)

_RUNS = ("clean", "spliced", "mean", "zero")
_LARGEST = 3.4e38
# Of rounding, in the softmax of the model.
_SLACK = 1e-6


class SoundFidelity(NamedTuple):
    """What is known of figures that fit one another.

    Attributes:
        proteins: held-out proteins.
        masked_residues: residues that were predicted.
        recovered_of_zero: share of the loss by zero ablation that the SAE recovers; may be None.
        recovered_of_mean: likewise.
    """

    proteins: int
    masked_residues: int
    recovered_of_zero: float | None
    recovered_of_mean: float | None


def verify_model_fidelity(measured: Product) -> SoundFidelity:
    """Check that figures lie where they can, and that shares and the table follow from them.

    Args:
        measured: as ``measure_model_fidelity`` made it.

    Raises:
        InputError: they do not; the figure is named.
    """
    require_files(measured)
    path = measured.path / MODEL_FIDELITY
    figures = storage.read_json(path)
    if not isinstance(figures, dict) or not isinstance(figures.get("unmasked_only"), dict):
        raise InputError(f"{path}: holds no figures by name; {AGAIN}")
    require_figures(
        path, figures, dict.fromkeys(("proteins", "masked_residues", "mean_proteins"), (1, 1e18))
    )
    for found in (figures, figures["unmasked_only"]):
        _require_possible(path, found)
    table = measured.path / FIDELITY_BY_RESIDUE
    rows = scan_table(table, ("residue", "masked_residues", "kl_spliced"))
    wrong = outside(0, _LARGEST, *(f"cross_entropy_{run}" for run in _RUNS))
    refuse_rows(table, rows, wrong | outside(-_SLACK, _LARGEST, "kl_spliced"), named_by=["residue"])
    counted = rows.select(pl.col("masked_residues").sum()).collect().item()
    require_equal(table, {"masked residues": (counted, figures["masked_residues"])})
    return SoundFidelity(
        figures["proteins"],
        figures["masked_residues"],
        figures["recovered_of_zero"],
        figures["recovered_of_mean"],
    )


def _require_possible(path: Any, figures: dict[str, Any]) -> None:
    bounds = {f"cross_entropy_{run}": (0.0, _LARGEST) for run in _RUNS}
    bounds |= {f"accuracy_{run}": (0.0, 1.0) for run in _RUNS}
    bounds |= {f"kl_{run}": (-_SLACK, _LARGEST) for run in _RUNS[1:]}
    require_figures(path, figures, bounds)
    clean, spliced, mean, zero = (figures[f"cross_entropy_{run}"] for run in _RUNS)
    for name, ablated in (("recovered_of_mean", mean), ("recovered_of_zero", zero)):
        if figures.get(name) is None and figures.get(f"{name}_reason"):
            continue
        require_figures(path, figures, {name: (-_LARGEST, _LARGEST)})
        share, lost = figures[name], ablated - clean
        if not lost > 0 or not math.isclose(share, (ablated - spliced) / lost, abs_tol=_SLACK):
            raise InputError(
                f"{path}: {name} is {share:.6g}, which does not follow from the cross-entropies; "
                f"{AGAIN}"
            )
