import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import own_proteins
from esm_sae.analysis import describe_proteins
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.report import protein_payload, write_protein_report
from own_proteins import (
    write_activations,
    write_annotations,
    write_concepts,
    write_summary,
)

HOSTILE = "<script>document.title='broken'</script> & <!--"
PROTEINS = [
    (f"tr|P00001|A_X {HOSTILE} OS=Homo sapiens OX=9606", "ACDWY"),
    ("P2", "WWAAA"),
    ("P3", "CCCCC"),
    ("P4", "AW"),
]


@pytest.fixture
def described(tmp_path: Path) -> dict[str, Path]:
    own = write_activations(tmp_path / "own", PROTEINS)
    folder = describe_proteins(
        own,
        tmp_path / "described",
        reference=write_activations(tmp_path / "reference", [("R1", "ACDEFGHIKLW")]),
        summary=write_summary(tmp_path / "summary.parquet", {0: (HOSTILE, 0.9)}),
        concepts=write_concepts(tmp_path / "concepts", [{"concept": "kinase </script>"}]),
        annotations=write_annotations(tmp_path / "a.parquet", []),
    ).path
    return {"described": folder, "activations": own}


def _data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found[1])


def test_page_carries_proteins_latents_and_residues(
    described: dict[str, Path], tmp_path: Path
) -> None:
    product = write_protein_report(tmp_path / "r.html", **described)
    data = _data(product.path)
    assert data["proteins"]["id"] == ["tr|P00001|A_X", "P2", "P3", "P4"]
    assert data["proteins"]["accession"] == ["P00001", None, None, None]
    assert data["proteins"]["sequence"] == [sequence for _, sequence in PROTEINS]
    assert data["proteins"]["firing"] == [6, 3, 1, 3]
    places = data["latents"]["latent"]
    second = {places[entry[0]]: entry for entry in data["shown"][1]}
    # P2 is WWAAA: latent 5 fires on the W at 9 of 9, latent 0 on the A at 1.
    assert second[5][4:] == [1, 2, [1, 20, 1, 20]]
    assert second[0][4:6] == [3, 3]
    [distance, level, *others] = second[0][6]
    assert (distance, others) == (3, [1, level, 1, level])
    assert data["latents"]["label"][places.index(0)] == HOSTILE
    assert [row[1] for row in data["candidates"]] == ["tr|P00001|A_X", "P2", "P4"]
    assert "Left out" not in product.path.read_text()
    assert product.manifest.summary == {"proteins": 4, "proteins_shown": 4}


@pytest.mark.parametrize(
    ("activation", "described_as", "silence"),
    [
        ("topk", "a TopK sparse autoencoder with at most k = 2.", "a TopK autoencoder lets only k"),
        (
            "jumprelu",
            "a JumpReLU sparse autoencoder with k = 2 in the mean.",
            "a JumpReLU autoencoder keeps a latent silent wherever it stays below its threshold.",
        ),
    ],
)
def test_the_activation_is_named_and_what_silence_means(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    activation: str,
    described_as: str,
    silence: str,
) -> None:
    config = functools.partial(SAEConfig, activation=activation)
    monkeypatch.setattr(own_proteins, "SAEConfig", config)
    described = request.getfixturevalue("described")
    page = write_protein_report(tmp_path / "r.html", **described).path.read_text()
    assert described_as in page
    assert silence in page


def test_nothing_in_a_header_becomes_markup(described: dict[str, Path], tmp_path: Path) -> None:
    page = write_protein_report(tmp_path / "r.html", **described, title=HOSTILE).path.read_text()
    assert "document.title='broken'" in page
    assert "<script>document" not in page
    assert page.count("<script") == 2
    assert "default-src 'none'" in page


def test_a_page_of_many_proteins_shows_the_candidates_first(
    described: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protein_payload, "PROTEINS_SHOWN", 3)
    monkeypatch.setattr(protein_payload, "LATENTS_SHOWN", 1)
    product = write_protein_report(tmp_path / "r.html", **described)
    data = _data(product.path)
    assert data["proteins"]["id"] == ["tr|P00001|A_X", "P2", "P4"]
    # The most prominent latent, and the one that makes a candidate.
    assert all(1 <= len(entries) <= 2 for entries in data["shown"])
    for entries in data["shown"]:
        assert 5 in [data["latents"]["latent"][entry[0]] for entry in entries]
    assert "3 of 4 are on this page" in product.path.read_text()


def test_the_page_says_what_was_not_looked_up(tmp_path: Path) -> None:
    own = write_activations(tmp_path / "own", PROTEINS)
    concept = {"concept": "Kinase", "source": "uniprot"}
    for known, candidates in (["P2"], 1), ([], 0):
        folder = describe_proteins(
            own,
            tmp_path / "described",
            concepts=write_concepts(tmp_path / "concepts", [concept]),
            annotations=write_annotations(tmp_path / "a.parquet", [], in_uniprot=known),
        ).path
        page = write_protein_report(tmp_path / "r.html", described=folder, activations=own).path
        assert len(_data(page)["candidates"]) == candidates
        left_out = 3 - candidates
        sentence = f"Left out: {left_out} for concepts of UniProt, on {left_out} proteins that were"
        assert sentence in page.read_text()


def test_rows_that_are_proteins_have_no_sequence(tmp_path: Path) -> None:
    own = write_activations(tmp_path / "own", PROTEINS, pooling="mean")
    folder = describe_proteins(own, tmp_path / "described").path
    page = write_protein_report(tmp_path / "r.html", described=folder, activations=own).path
    assert _data(page)["proteins"]["sequence"] == [None] * 4
    assert 'id="candidates"' not in page.read_text()


def test_tables_of_other_activations_are_refused(
    described: dict[str, Path], tmp_path: Path
) -> None:
    other = write_activations(tmp_path / "other", PROTEINS[:2])
    with pytest.raises(InputError, match="describes other activations"):
        write_protein_report(tmp_path / "r.html", **described | {"activations": other})
    with pytest.raises(InputError, match="incomplete"):
        write_protein_report(tmp_path / "r.html", **described | {"described": tmp_path})


def test_the_same_page_again(described: dict[str, Path], tmp_path: Path) -> None:
    one = write_protein_report(tmp_path / "r.html", **described)
    assert write_protein_report(tmp_path / "r.html", **described).unchanged
    other = write_protein_report(tmp_path / "other.html", **described)
    assert one.path.read_bytes() == other.path.read_bytes()
