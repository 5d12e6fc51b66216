"""Measure what the bundled demo encoder learnt, on proteins that it never saw.

Perplexity of hidden residues, and how often a protein's nearest neighbour in another similarity
cluster is of its family, beside an untrained copy and what plain counting gives.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from esm_sae import storage
from esm_sae.cli import command, run
from esm_sae.data.cut_proteins import add_source
from esm_sae.data.masked_residues import AMINO_ACIDS
from esm_sae.data.nearest_neighbours import (
    composition,
    dipeptides,
    nearest_in_other_clusters,
    precision,
    queries_of,
    whiten,
)
from esm_sae.data.source_proteins import SourceProtein, read_source
from esm_sae.data.train_encoder import RECORD, WEIGHTS
from esm_sae.errors import InputError
from esm_sae.formats.headers import parse_header
from esm_sae.formats.protein_names import family_of
from esm_sae.progress import progress

if TYPE_CHECKING:
    import torch
    from esm.models.esmc import ESMC

    from esm_sae.embedding import Encoder
    from esm_sae.embedding.esmc import ESMCBackbone

MEASURES = "encoder_measures.json"

Hits = dict[str, dict[str, np.ndarray]]
"""By space and form, whether each query's nearest neighbour is of its family: (Q,), 0 or 1."""

_LONGEST = 512
_BATCH_TOKENS = 8_192
_RESIDUES_OF_A_PROTEIN = 4
_BATCHES_SEEN = 100


class _RowShape(TypedDict):
    width: int
    rows: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = command(
        "data.judge_encoder",
        "Measure the demo's encoder on held-out proteins: perplexity and nearest neighbours.",
        "python -m esm_sae.data.judge_encoder "
        "--source /usr/share/doc/mmseqs2/example-data --output esm_sae/data",
    )
    add_source(parser)
    parser.add_argument("--device", default="cpu", metavar="NAME", help="default: cpu")
    return run(parser, _work, argv)


def _work(options: argparse.Namespace) -> str:
    measures = judge_encoder(options.source, options.output, device=options.device)
    perplexities = ", ".join(f"{name} {p}" for name, p in measures["perplexity"].items())
    return f"{options.output / MEASURES}: perplexity {perplexities}"


def judge_encoder(source: Path, folder: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Measure the encoder of a folder and write ``encoder_measures.json`` beside it.

    Args:
        source: folder of the example records.
        folder: holds ``encoder.safetensors`` and ``encoder_training.json``.
        device: where to run.

    Returns:
        What the file holds.

    Raises:
        InputError: the source is not the expected one, or weights and record do not belong
            together.
    """
    from esm_sae.embedding import load_encoder

    record = storage.read_json(folder / RECORD)
    if record["sha256"] != storage.sha256_of(folder / WEIGHTS):
        raise InputError(f"{folder / RECORD}: not the record of {WEIGHTS}; train it again")
    rows: _RowShape = {
        "width": record["options"]["row_tokens"],
        "rows": record["options"]["rows"],
    }
    proteins = read_source(source)
    trained = load_encoder("esmc_demo", weights=folder / WEIGHTS, device=device)
    untrained = load_encoder("esmc_demo_untrained", device=device)
    measures = {
        "weights_sha256": trained.weights_sha256,
        "proteins": len(proteins),
        "perplexity": _perplexities(proteins, trained, untrained, rows),
        "neighbours": _neighbours(proteins, trained, untrained),
    }
    storage.publish_json(folder / MEASURES, measures)
    return measures


def _perplexities(
    proteins: Sequence[SourceProtein], trained: "Encoder", untrained: "Encoder", rows: "_RowShape"
) -> dict[str, float]:
    from esm_sae.data.perplexity import alphabet_of, hidden_batches, perplexity, tokenizer

    encode = trained.backbone.vocabulary.encode
    tokens = {
        split: [encode(p.sequence).ids for p in proteins if p.split == split]
        for split in ("train", "test")
    }
    residues = alphabet_of(tokenizer()).residues
    counts = np.bincount(np.concatenate(tokens["train"]), minlength=64)[residues]
    information = np.full(64, np.nan)
    information[residues] = -np.log(counts / counts.sum())
    hidden = [batch.residues for batch in hidden_batches(tokens["test"], **rows)]
    found = {
        "uniform": float(len(residues)),
        "unigram": math.exp(information[np.concatenate(hidden)].mean()),
        "untrained": perplexity(_model(untrained), tokens["test"], **rows),
        "trained": perplexity(_model(trained), tokens["test"], **rows),
        # Beside the last: whether it lacks proteins or training.
        "trained, seen proteins": perplexity(
            _model(trained), tokens["train"], **rows, batches=_BATCHES_SEEN
        ),
    }
    return {name: round(value, 2) for name, value in found.items()}


def _neighbours(
    proteins: Sequence[SourceProtein], trained: "Encoder", untrained: "Encoder"
) -> dict[str, Any]:
    clusters = np.array([protein.cluster for protein in proteins])
    families = [family_of(parse_header(protein.header).name) for protein in proteins]
    splits = np.array([protein.split for protein in proteins])
    queries = queries_of(families, clusters)
    spaces, ranks = _spaces(proteins, trained, untrained)
    hits = _hits(spaces, queries, clusters, families, fitted_to=np.flatnonzero(splits == "train"))
    groups = {
        "validation": splits[queries] == "validation",
        "test": splits[queries] == "test",
        "all": np.ones(len(queries), dtype=bool),
    }
    return {
        "families": len({families[query] for query in queries}),
        "effective_rank": {f"layer {n}": rank for n, rank in enumerate(ranks)},
        **{
            group: _figures(hits, inside, clusters[queries], layers=trained.blocks)
            for group, inside in groups.items()
        },
    }


def _spaces(
    proteins: Sequence[SourceProtein], trained: "Encoder", untrained: "Encoder"
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Return vectors of the proteins by name, and the ranks of the trained encoder's residues."""
    sequences = [protein.sequence for protein in proteins]
    means, residues = means_of_layers(trained, sequences)
    untrained_means, _ = means_of_layers(untrained, sequences)
    spaces = {
        "composition and length": composition(sequences, AMINO_ACIDS),
        "dipeptides": dipeptides(sequences, AMINO_ACIDS),
        **{f"untrained, layer {n}": layer for n, layer in enumerate(untrained_means)},
        **{f"trained, layer {n}": layer for n, layer in enumerate(means)},
    }
    return spaces, [_effective_rank(rows) for rows in residues]


def _hits(
    spaces: Mapping[str, np.ndarray],
    queries: np.ndarray,
    clusters: np.ndarray,
    families: Sequence[str | None],
    *,
    fitted_to: np.ndarray,
) -> Hits:
    numbers = np.unique([family or "" for family in families], return_inverse=True)[1]
    hits: Hits = {}
    for name, raw in spaces.items():
        for form, vectors in (("raw", raw), ("whitened", whiten(raw, fitted_to))):
            nearest = nearest_in_other_clusters(vectors, queries, clusters)
            same = numbers[nearest] == numbers[queries]
            hits.setdefault(name, {})[form] = same.astype(float)
    return hits


def _figures(
    hits: Hits, inside: np.ndarray, clusters: np.ndarray, *, layers: int
) -> dict[str, Any]:
    """Return the precision of each space over some of the queries, and the trained one's lead."""

    def of(hit: np.ndarray) -> dict[str, float]:
        found = precision(hit[inside], clusters[inside])
        return {name: round(value, 3) for name, value in found._asdict().items()}

    others = ("untrained", "composition and length", "dipeptides")
    return {
        "queries": int(inside.sum()),
        "precision_at_1": {
            name: {form: of(hit) for form, hit in forms.items()} for name, forms in hits.items()
        },
        "trained_minus": {
            other: {
                f"layer {n}": of(hits[f"trained, layer {n}"]["whitened"] - _best(hits, other, n))
                for n in range(1, layers + 1)
            }
            for other in others
        },
    }


def means_of_layers(
    encoder: "Encoder", sequences: Sequence[str]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Embed sequences, cut off after 512 residues, at all layers in one pass, in bfloat16.

    Returns:
        For each layer 0..B the means over residues, (N, D) float32; and for each layer the states
        of four residues of each sequence, (4 N, D) float32.
    """
    import torch

    width, layers = encoder.width, encoder.blocks + 1
    means = [np.empty((len(sequences), width), dtype=np.float32) for _ in range(layers)]
    residues = [
        np.empty((len(sequences), _RESIDUES_OF_A_PROTEIN, width), dtype=np.float32)
        for _ in range(layers)
    ]
    total = sum(min(len(sequence), _LONGEST) for sequence in sequences)
    with (
        progress(total, unit="residues", description=f"embedding, {encoder.name}") as shown,
        torch.inference_mode(),
        torch.autocast(encoder.device.type, dtype=torch.bfloat16),
    ):
        for numbers, tokens in _batches_of_equals(encoder, sequences):
            ids = torch.from_numpy(tokens).to(encoder.device)
            places = np.linspace(1, tokens.shape[1] - 2, _RESIDUES_OF_A_PROTEIN).astype(int)
            for layer, states in enumerate(_states_of_layers(encoder, ids)):
                means[layer][numbers] = states[:, 1:-1].mean(dim=1).cpu().numpy()
                residues[layer][numbers] = states[:, places].cpu().numpy()
            shown.update(len(numbers) * (tokens.shape[1] - 2))
    return means, [states.reshape(-1, width) for states in residues]


def _batches_of_equals(
    encoder: "Encoder", sequences: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of sequences of one length: their numbers, (b,), and token ids, (b, T)."""
    encode = encoder.backbone.vocabulary.encode
    lengths = np.array([min(len(sequence), _LONGEST) for sequence in sequences])
    for length in np.unique(lengths):
        of_length = np.flatnonzero(lengths == length)
        size = max(1, _BATCH_TOKENS // int(length))
        for start in range(0, len(of_length), size):
            numbers = of_length[start : start + size]
            tokens = [encode(sequences[int(n)][:_LONGEST]).ids for n in numbers]
            yield numbers, np.stack(tokens)


def _states_of_layers(encoder: "Encoder", ids: "torch.Tensor") -> "Iterator[torch.Tensor]":
    model = _model(encoder)
    states = model.embed(ids)
    yield states.float()
    for number, block in enumerate(model.transformer.blocks, 1):
        states = block(states, None, None, None, None)
        last = number == len(model.transformer.blocks)
        yield (model.transformer.norm(states) if last else states).float()


def _model(encoder: "Encoder") -> "ESMC":
    return cast("ESMCBackbone", encoder.backbone).model


def _best(hits: Hits, other: str, layer: int) -> np.ndarray:
    """Return the hits of another space, raw or whitened, whichever has more of them."""
    forms = hits[f"untrained, layer {layer}" if other == "untrained" else other]
    return max(forms.values(), key=lambda hit: hit.mean())


def _effective_rank(rows: np.ndarray) -> float:
    """Return exp of the entropy of the covariance's spectrum (Roy & Vetterli 2007, eq. 2)."""
    spectrum = np.linalg.eigvalsh(np.cov(rows.astype(np.float64), rowvar=False))
    shares = spectrum[spectrum > 0] / spectrum[spectrum > 0].sum()
    return round(math.exp(-(shares * np.log(shares)).sum()), 1)


if __name__ == "__main__":
    sys.exit(main())
