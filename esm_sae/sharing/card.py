"""The model card of an SAE: what config, training, metrics and manifests record of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from esm_sae import storage
from esm_sae.data import provenance
from esm_sae.formats.activation_names import activation_of
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig
from esm_sae.formats.shared_sae import CARD_NAME
from esm_sae.sharing.lineage import Lineage
from esm_sae.sharing.markdown import Verbatim, render
from esm_sae.split import identity_of_clusters

_TEMPLATE = "model_card.md.j2"
# The encoders that this package loads by name; the hub's model where there is one.
BASE_MODELS = {
    "esmc_300m": "EvolutionaryScale/esmc-300m-2024-12",
    "esmc_600m": "EvolutionaryScale/esmc-600m-2024-12",
    "esmc_demo": None,
}
_UNTRAINED = "_untrained"
_POOLINGS = {
    "mean": "a protein, the mean over its residues",
    "max": "a protein, the maximum over its residues",
    "last": "a protein, its last residue",
    "bos": "a protein, its BOS token",
    "residue": "a residue",
}
_MANY_DEAD = 0.1
_LITTLE_RECOVERED = 0.5


@dataclass(frozen=True)
class Known:
    """All that the card may tell.

    Attributes:
        checkpoint: the weights and their config.
        weights_sha256: of the file that they were read from.
        training: counts and figures of the training.
        metrics: figures on held-out rows, as ``evaluate_sae`` writes them.
        fidelity: what the encoder loses by the SAE, as ``measure_model_fidelity`` writes it.
        latents: counts of the summary of an analysis; ``named`` of them have a label, and
            ``proteins`` is of how many it is.
        lineage: what the rows were made from.
        license: identifier of the licence; None where none is stated.
        repository: ``org/name`` on the hub; None where it is not known.
    """

    checkpoint: Checkpoint
    weights_sha256: str
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None
    fidelity: Mapping[str, Any] | None = None
    latents: Mapping[str, Any] | None = None
    lineage: Lineage = field(default_factory=Lineage)
    license: str | None = None
    repository: str | None = None


def model_card(known: Known) -> str:
    """Return a model card: YAML front matter as the hub reads it, then Markdown."""
    config = known.checkpoint.config
    options = _mapping(_or_nothing(known.lineage.shard, "determinants").get("options"))
    split = _split(config)
    template = resources.files("esm_sae.sharing").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return render(
        template,
        {
            "known": known,
            "config": config,
            "trained": _Known(known.training),
            "training": _Known(config.training),
            "devices": _mapping(config.training.get("devices")),
            "metrics": None if known.metrics is None else _Known(known.metrics),
            "fidelity": None if known.fidelity is None else _Known(known.fidelity),
            "latents": None if known.latents is None else _Known(known.latents),
            "lineage": known.lineage,
            "embedded": _Known(_or_nothing(known.lineage.embeddings, "summary")),
            "embedding": options,
            "samples": [
                (_Known(sample.determinants), _Known(sample.summary), _sha256_of(sample.files))
                for sample in known.lineage.samples
            ],
            "proteins": _Known(provenance()),
            "base_model": BASE_MODELS.get(config.encoder),
            "row": _POOLINGS.get(config.pooling),
            "rows": "residues" if config.pooling == "residue" else "rows",
            "encoder": _loadable(config),
            "source": Verbatim(f'"hf://{known.repository or "ORG/NAME"}"'),
            "split": split,
            "held_out": split is not None and (known.metrics or {}).get("trained_on_these") is True,
            "activation": activation_of(config),
            "prefixes": _prefixes(config),
            "thresholds": known.checkpoint.threshold is not None,
            "limits": list(_limits(known, options)),
        },
    )


def card_text(folder: Path) -> str:
    """Return the card in a folder as Markdown, without what only the hub reads."""
    text = storage.read_bytes(folder / CARD_NAME).decode()
    return text.removeprefix("---\n").partition("\n---\n")[2].lstrip()


class _Known(dict[str, Any]):
    """A mapping of which a template may ask for anything: what is not there is None."""

    def __missing__(self, name: str) -> None:
        return None


def _mapping(value: Any) -> _Known:
    return _Known(value if isinstance(value, Mapping) else {})


def _or_nothing(manifest: Any, part: str) -> dict[str, Any]:
    return {} if manifest is None else getattr(manifest, part)


def _sha256_of(files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the hash of a sample's sequences; its index is a table."""
    hashes = [entry["sha256"] for name, entry in files.items() if not name.endswith(".parquet")]
    return hashes[0] if len(hashes) == 1 else None


def _loadable(config: SAEConfig) -> dict[str, Any] | None:
    """Return how the rows of an SAE are computed by this package; None where it cannot tell."""
    is_known = config.encoder.removesuffix(_UNTRAINED) in BASE_MODELS
    if not is_known or config.layer is None or config.pooling not in _POOLINGS:
        return None
    names = {"name": config.encoder, "pooling": config.pooling}
    return {**{name: Verbatim(f'"{text}"') for name, text in names.items()}, "layer": config.layer}


def _split(config: SAEConfig) -> dict[str, Any] | None:
    """Return how rows were held out; None where that is not known."""
    recorded = _mapping(config.training.get("split"))
    if "similarity_clusters" not in recorded:
        return None
    clusters = recorded["similarity_clusters"]
    return {
        "seed": recorded["seed"],
        "clusters": clusters,
        "bundled": clusters is not None and clusters == identity_of_clusters("bundled"),
    }


def _prefixes(config: SAEConfig) -> Any:
    """Return the sizes of the dictionaries within the dictionary; None where there are none."""
    prefixes = config.training.get("prefixes")
    return ", ".join(map(str, prefixes)) if isinstance(prefixes, list) else prefixes


def _limits(known: Known, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield what restricts the use of an SAE, as far as its records tell."""
    config, split = known.checkpoint.config, _split(known.checkpoint.config)
    if config.encoder.endswith(_UNTRAINED):
        yield (
            "The encoder has random weights: this SAE is a baseline to compare others with, and "
            "says nothing of proteins."
        )
    elif config.encoder_note:
        yield (
            f"The encoder is {config.encoder_note}: good for trying the software, not for "
            "conclusions about proteins."
        )
    yield (
        "It reads rows of that encoder, with those weights, of that layer and pooling. On other "
        "rows of the same width it computes activations all the same, and they mean nothing."
    )
    if config.pooling in _POOLINGS and config.pooling != "residue":
        yield "A row is a whole protein: latents say nothing of where in it something is."
    drawn = options.get("residues_per_protein")
    if drawn is not None and config.pooling == "residue":
        yield (
            f"At most {drawn:,} residues of each protein were drawn at random. Residues of one "
            "protein are alike, so the rows count for fewer than they are."
        )
    rows = known.training.get("training_rows")
    if rows is not None:
        yield (
            f"{rows:,} training rows for {config.latent_dim:,} latents: "
            f"{rows / config.latent_dim:,.0f} rows for each."
        )
    if split is None:
        yield "How rows were held out is unknown, so figures on held-out rows cannot be judged."
    elif split["clusters"] is None:
        yield (
            "Proteins were held out one by one: relatives, even copies, of test proteins may have "
            "been trained on, and figures on test rows are too good by an unknown amount."
        )
    yield from _measured_limits(known)
    seed = "unknown" if config.seed is None else config.seed
    yield (
        f"One training with one seed ({seed}). Another seed gives other latents; which of these "
        "would be found again is not told here."
    )
    yield "Not for diagnosis, treatment or any other clinical use, and not tested for any."


def _measured_limits(known: Known) -> Iterator[str]:
    config, metrics = known.checkpoint.config, known.metrics or {}
    dead = metrics.get("dead_share", known.training.get("dead_share"))
    if dead is not None and dead > _MANY_DEAD:
        yield (
            f"{dead:.1%} of the latents were dead when the training ended: they had not fired in "
            "its last pass over the training rows."
        )
    recovered = (known.fidelity or {}).get("recovered_of_mean")
    if recovered is not None and recovered < _LITTLE_RECOVERED:
        yield (
            f"With its reconstructions for states the encoder keeps {recovered:.1%} of what it "
            "has over the mean state in predicting masked residues: much of what it reads is not "
            "in the latents."
        )
    if not metrics:
        yield "It was not measured on held-out rows, or the figures were not given to this card."
        return
    fvu, k = metrics.get("fvu"), config.k
    for name, rival in (
        ("pca_fvu", f"PCA with {k:,} components"),
        ("random_dictionary_fvu", "a random dictionary that was never trained"),
        ("untrained_fvu", "the same SAE on rows of an untrained encoder"),
    ):
        value = metrics.get(name)
        if fvu is not None and value is not None and value <= fvu:
            yield f"By FVU {rival} is no worse ({value:.4g} to {fvu:.4g})."
    unfired, expected = metrics.get("unfired_share"), metrics.get("unfired_share_expected")
    if unfired is not None and expected is not None and unfired > expected:
        yield (
            f"{unfired:.1%} of the latents fire on no test row, where by even use it would be "
            f"{expected:.1%}: the rest carry more than their share."
        )
