"""What a report says at its top of the SAE: figures, encoder, activation, provenance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysed_runs import MadeUp, write_run
from esm_sae import storage
from esm_sae.analysis.reference import sae_of
from esm_sae.errors import InputError
from esm_sae.formats import analysis_tables
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import produce_folder
from esm_sae.report import write_report
from esm_sae.report.facts import provenance


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    """Make all tables of a residue run."""
    return write_run(tmp_path)


def _text_of(run: dict[str, Path], **options: Any) -> str:
    return write_report(run["summary"].parent / "report.html", **run, **options).path.read_text()


@pytest.mark.parametrize(
    ("note", "said"),
    [
        ("untrained: seeded random weights", "The encoder is untrained."),
        ("a small demonstration model", "not for conclusions"),
        ("", "unknown origin"),
    ],
)
def test_what_the_encoder_is_worth_is_said_at_the_top(tmp_path: Path, note: str, said: str) -> None:
    encoder = {"encoder": "esmc_demo", "encoder_note": note} if note else {}
    text = _text_of(write_run(tmp_path, MadeUp(config=encoder)))
    assert said in text.split('id="browse"')[0]


@pytest.mark.parametrize(
    ("activation", "name", "meant"),
    [
        ("topk", "TopK", "of at most k = 4"),
        ("batchtopk", "BatchTopK", "BatchTopK: k = 4 in the mean"),
        ("jumprelu", "JumpReLU", "JumpReLU: k = 4 in the mean"),
    ],
)
def test_the_activation_is_named_and_what_k_says_of_it(
    tmp_path: Path, activation: str, name: str, meant: str
) -> None:
    text = _text_of(write_run(tmp_path, MadeUp(config={"activation": activation})))
    assert f"A {name} sparse autoencoder on embeddings" in text
    assert f"<span>{meant}</span>" in text
    k = meant.removeprefix("of ").removeprefix(f"{name}: ")
    assert f'<th scope="row">activation</th><td>{name}, {k}</td>' in text


def test_provenance_tells_the_z_score_and_lists_plainly() -> None:
    config = SAEConfig(8, 24, 4, training={"prefixes": [6, 12]})
    told = dict(provenance(config))
    assert (told["rows normalised"], told["training: prefixes"]) == ("no", "6, 12")
    z_scored = replace(config, normalize=True, normalize_ddof=1, normalize_epsilon=1e-6)
    assert dict(provenance(z_scored))["rows normalised"] == "yes, ddof 1, epsilon 1e-06"


def test_metrics_and_their_figures_are_shown(run: dict[str, Path], tmp_path: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        metrics = {"fvu": 0.25, "pca_fvu": 0.125, "dead_share": 0.5, "l0_histogram": [1, 2]}
        storage.publish_json(folder / "metrics.json", metrics)
        (folder / "curves.png").write_bytes(b"\x89PNG")
        return {}

    product = produce_folder(tmp_path / "metrics", kind="sae_metrics", determinants={}, build=build)
    text = _text_of(run, metrics=product.path)
    for expected in ("25.0%", "12.5%", "PCA is better here", "50.0%", 'alt="curves"'):
        assert expected in text


def _write_fidelity(folder: Path, sae: str, **figures: float | None) -> Path:
    def build(work: Path) -> dict[str, Any]:
        storage.publish_json(work / analysis_tables.MODEL_FIDELITY, figures)
        (work / analysis_tables.FIDELITY_FIGURE).write_bytes(b"\x89PNG")
        return {}

    determinants = {"sae": sae}
    return produce_folder(
        folder, kind="model_fidelity", determinants=determinants, build=build
    ).path


@pytest.mark.parametrize(
    ("figures", "value", "meaning"),
    [
        (
            (0.836, 0.712, 0.934),
            "84%",
            "(95%: 71% to 93%), of what the mean state costs: perplexity 16.4 to 18.6<",
        ),
        ((0.836, None, None), "84%", "in predicting hidden residues, of what the mean state costs"),
        ((None, None, None), None, None),
    ],
)
def test_what_the_model_loses_is_shown_where_it_can_be_told(
    run: dict[str, Path],
    tmp_path: Path,
    figures: tuple[float | None, ...],
    value: str | None,
    meaning: str | None,
) -> None:
    names = [f"recovered_of_mean{end}" for end in ("", "_low", "_high")]
    sae = sae_of(run["activations"])
    perplexities = {"perplexity_clean": 16.36, "perplexity_mean": 18.62}
    measured = perplexities | dict(zip(names, figures, strict=True))
    fidelity = _write_fidelity(tmp_path / "f", sae, **measured)
    text = _text_of(run, fidelity=fidelity)
    assert 'alt="model fidelity"' in text
    assert ("loss recovered" in text) == (value is not None)
    if meaning is not None:
        assert f"{value}<" in text
        assert meaning in text


def test_what_the_model_loses_by_another_sae_is_refused(
    run: dict[str, Path], tmp_path: Path
) -> None:
    fidelity = _write_fidelity(tmp_path / "f", "another")
    with pytest.raises(InputError, match="made from another SAE"):
        _text_of(run, fidelity=fidelity)
