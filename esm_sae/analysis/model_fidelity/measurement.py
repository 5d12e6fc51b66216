"""The measurement as a whole: proteins, forward passes, figures, files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from esm_sae import storage
from esm_sae.analysis.model_fidelity.figure import fidelity_figure
from esm_sae.analysis.model_fidelity.hidden_residues import (
    AMINO_ACIDS,
    HIDDEN_SHARE,
    Proteins,
    amino_acids_of,
    hide_residues,
    proteins_of,
)
from esm_sae.analysis.model_fidelity.loss_recovered import (
    Tally,
    by_amino_acid,
    loss_recovered,
)
from esm_sae.analysis.model_fidelity.splicing import (
    LanguageModel,
    SplicedSAE,
    predict_hidden,
)
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    FIDELITY_BY_RESIDUE,
    FIDELITY_FIGURE,
    MODEL_FIDELITY,
)
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.manifest import Product, identity_of, produce_folder
from esm_sae.formats.shards import Provenance
from esm_sae.progress import progress
from esm_sae.recorded_split import record_of_split, require_held_out
from esm_sae.split import (
    Split,
    cluster_numbers_of,
    read_similarity_clusters,
)

_ALGORITHM = "model-fidelity-3"
# Training proteins whose mean rows are held at a time.
_AT_A_TIME = 256


def measure_model_fidelity(
    sae: SplicedSAE,
    model: LanguageModel,
    fasta: storage.PathLike,
    output_folder: storage.PathLike,
    *,
    layer: int,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    seed: int = 0,
    max_proteins: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> Product:
    """Splice an SAE's reconstruction into the model it was trained on; say what the model loses.

    Of each held-out protein 15% of the residues are hidden by the mask token, at least one, and
    the model predicts them: as it is (clean), with the states of all residues at the SAE's layer
    replaced by their reconstruction (spliced), by zeros (zero ablation) and by the mean state of
    training proteins, shown whole (mean ablation). BOS and EOS keep their states. Files of the
    folder:

    - ``model_fidelity.json``: for each run ``cross_entropy_{run}`` in nats over the whole
      vocabulary, as the head was trained, its ``perplexity`` and ``accuracy``; ``kl_{run}``, the
      mean of KL(clean || run); ``recovered_of_zero`` and ``recovered_of_mean``, as
      ``loss_recovered`` defines them, with ``_reason`` where they are null. ``_low`` and ``_high``
      are 95% bootstrap intervals over similarity clusters. ``unmasked_only`` has the same with
      the masked residues' own states left as they are: the SAE never saw such states.
    - ``by_residue.parquet``: one row per amino acid, as ``by_amino_acid``.
    - ``model_fidelity.png``: both as a figure.

    Memory: the model, a batch with its states and logits, the sequences of the chosen proteins of
    a split, the tallies of 22 numbers per test protein, and 256 mean rows at a time.

    Args:
        sae: an SAE of residue rows.
        model: the language model that these rows are of, with its head.
        fasta: FASTA file with proteins of the test split, which are measured, and of the training
            split, whose mean state is taken.
        output_folder: replaced as a whole.
        layer: of the SAE, as in ``Encoder.layer_number``.
        similarity_clusters: as in the training of the SAE.
        split_seed: as in the training.
        seed: of the proteins and residues drawn, and of the intervals.
        max_proteins: most test proteins, and most training proteins for the mean; None: all.
        max_length: residues after which a protein is cut off; None: none is.
        batch_tokens: most tokens of a batch; None takes what suits the device.

    Raises:
        InputError: the SAE is of other rows than residues or of unknown ones, of another model or
            layer, or was trained with another split; the model has no head; no protein falls into
            the test or the training split; values that are not finite.
    """
    config, number = sae.config, model.layer_number(layer)
    _require_spliceable(sae, model, number)
    require_held_out("the SAE", config.training, similarity_clusters, split_seed)
    determinants = {
        "sae": sae.fingerprint,
        "config": asdict(config),
        "encoder": model.name,
        "weights": model.weights_sha256,
        "precision": model.precision,
        "device": model.device.type,
        "batch_tokens": batch_tokens or model.default_batch_tokens,
        "layer": number,
        "fasta": identity_of(fasta),
        "split": record_of_split(similarity_clusters, split_seed),
        "seed": seed,
        "hidden_share": HIDDEN_SHARE,
        "max_proteins": max_proteins,
        "max_length": max_length,
        "algorithm": _ALGORITHM,
    }

    def build(folder: Path) -> dict[str, Any]:
        clusters = (
            {} if similarity_clusters is None else read_similarity_clusters(similarity_clusters)
        )

        def drawn(split: Split) -> Proteins:
            proteins = proteins_of(
                fasta,
                split,
                clusters,
                split_seed=split_seed,
                most=max_proteins,
                max_length=max_length,
                seed=seed,
            )
            if not proteins.ids:
                raise InputError(
                    f"{fasta}: none of its proteins falls into the split '{split}'; give more, "
                    "such as the FASTA file that the SAE was trained on"
                )
            return proteins

        mean, averaged = _mean_state(model, drawn("train"), number, batch_tokens)
        proteins = drawn("test")
        hidden = hide_residues(*proteins, seed)
        of_protein, of_acid = _predict(model, sae, proteins, hidden, number, mean, batch_tokens)
        measured = np.flatnonzero(of_protein.count)
        if not len(measured):
            raise InputError(
                f"{fasta}: its test proteins have none of the 20 amino acids that could be hidden"
            )
        # Clusters without a masked residue are no draws.
        tally = _of_groups(of_protein, measured)
        numbers = cluster_numbers_of([proteins.ids[one] for one in measured], clusters)
        found = loss_recovered(tally, numbers, seed=seed)
        figures = {
            "k": config.k,
            "latent_dim": config.latent_dim,
            "encoder": model.name,
            "encoder_note": model.note,
            "layer": number,
            "proteins": len(measured),
            "similarity_clusters": int(numbers.max()) + 1,
            "masked_residues": int(tally.count.sum()),
            "mean_proteins": averaged,
            **found["all"],
        }
        table = by_amino_acid(of_acid)
        storage.publish_json(
            folder / MODEL_FIDELITY, {**figures, "unmasked_only": found["unmasked"]}
        )
        with storage.publish(folder / FIDELITY_BY_RESIDUE) as temporary:
            table.write_parquet(temporary)
        storage.publish_bytes(folder / FIDELITY_FIGURE, fidelity_figure(found, table, figures))
        return _summary(figures)

    return produce_folder(
        output_folder, kind="model_fidelity", determinants=determinants, build=build
    )


def _summary(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of it at a glance; the file has the rest."""
    left_out = ("accuracy_", "perplexity_", "kl_mean", "kl_zero")
    of_intervals = ("_low", "_high")
    return {
        name: value
        for name, value in figures.items()
        if name.startswith("recovered_of_mean")
        or not (name.startswith(left_out) or name.endswith(of_intervals))
    }


def _require_spliceable(sae: SplicedSAE, model: LanguageModel, layer: int) -> None:
    config = sae.config
    if config.pooling == "unknown":
        raise InputError(
            "nothing records of what rows the SAE is, and only one of residue rows can be spliced "
            'in; if it is one, record "pooling": "residue" in a config.json beside it, with its '
            "width, latent_dim and k"
        )
    if config.pooling != "residue":
        raise InputError(
            f"the SAE was trained on {config.pooling} rows, of which a model has none inside; only "
            "one of residue rows can be spliced in: train it on shards of --pooling residue"
        )
    rows = Provenance(
        encoder=model.name, weights_sha256=model.weights_sha256, layer=layer, pooling="residue"
    )
    require_same_embeddings(config, rows, model.width, f"encoder {model.name}")
    # Asked for before any work: a model without a head has none.
    _ = model.mask


def _mean_state(
    model: LanguageModel, proteins: Proteins, layer: int, batch_tokens: int | None
) -> tuple[np.ndarray, int]:
    """Return the mean state of the proteins' residues, (D,) float64, and how many proteins."""
    total, residues = np.zeros(model.width), 0
    for start in range(0, len(proteins.sequences), _AT_A_TIME):
        some = proteins.sequences[start : start + _AT_A_TIME]
        means = model.embed(some, pooling="mean", layer=layer, batch_tokens=batch_tokens)
        lengths = np.array([len(sequence) for sequence in some])
        # Not a matrix product, whose sum would depend on the number of threads.
        total += (means.astype(np.float64) * lengths[:, None]).sum(axis=0)
        residues += int(lengths.sum())
    return total / residues, len(proteins.sequences)


def _predict(
    model: LanguageModel,
    sae: SplicedSAE,
    proteins: Proteins,
    hidden: Sequence[np.ndarray],
    layer: int,
    mean: np.ndarray,
    batch_tokens: int | None,
) -> tuple[Tally, Tally]:
    """Return the tallies by protein and by amino acid."""
    of_protein, of_acid = Tally(len(proteins.ids)), Tally(len(AMINO_ACIDS))
    lengths = np.array([len(sequence) for sequence in proteins.sequences])
    with progress(len(lengths), unit="proteins", description="splicing the SAE in") as shown:
        for numbers in model.batches(lengths, batch_tokens=batch_tokens):
            at = [hidden[number] for number in numbers]
            sequences = [proteins.sequences[number] for number in numbers]
            ids = [model.token_ids(sequence) for sequence in sequences]
            outcome = predict_hidden(model, sae, ids, at, layer=layer, mean=mean)
            owners = np.repeat(numbers, [len(positions) for positions in at])
            _require_finite(outcome.cross_entropy, owners, proteins, model)
            of_protein.add(owners, outcome)
            acids = [amino_acids_of(one)[where] for one, where in zip(sequences, at, strict=True)]
            of_acid.add(np.concatenate(acids), outcome)
            shown.update(len(numbers))
    return of_protein, of_acid


def _require_finite(
    entropies: np.ndarray, owners: np.ndarray, proteins: Proteins, model: LanguageModel
) -> None:
    finite = np.isfinite(entropies).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{proteins.ids[owners[np.argmin(finite)]]}: {model.name} gives values that are not "
            "finite with the SAE spliced in; use precision float32 or another checkpoint"
        )


def _of_groups(tally: Tally, groups: np.ndarray) -> Tally:
    chosen = Tally(0)
    chosen.count = tally.count[groups]
    chosen.cross_entropy = tally.cross_entropy[groups]
    chosen.hits, chosen.divergence = tally.hits[groups], tally.divergence[groups]
    return chosen
