"""The bundled encoder, its record, its figures and its card belong together."""

import json
import re
from pathlib import Path

import pytest

from esm_sae import data, storage
from esm_sae.data import judge_encoder, source_proteins, train_encoder
from esm_sae.data.judge_encoder import MEASURES, means_of_layers
from esm_sae.data.source_proteins import read_source
from esm_sae.data.train_encoder import RECORD
from esm_sae.embedding import load_encoder
from esm_sae.errors import InputError
from esm_sae_assets.settings import load_settings

CARD = Path(__file__).resolve().parents[2] / "docs/demo-encoder.md"
FOLDER = data.bundled_encoder().parent


@pytest.fixture(scope="module")
def measures():
    return json.loads((FOLDER / MEASURES).read_text())


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / RECORD).read_text())


def table_below(heading):
    """Return the cells of the first table below a heading of the card, without its head."""
    lines = CARD.read_text().partition(f"### {heading}")[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" *`") for cell in line.strip("|").split("|")])
    return rows


def test_record_and_figures_are_of_the_bundled_weights(record, measures):
    assert record["sha256"] == storage.sha256_of(data.bundled_encoder())
    assert measures["weights_sha256"] == load_encoder("esmc_demo", device="cpu").weights_sha256


def test_the_record_counts_the_proteins_of_the_one_split(record):
    clusters = data.provenance()["counts"]["source_clusters"]
    assert sum(record["proteins"].values()) > clusters
    assert record["options"]["steps"] == record["curve"][-1]["step"]


def test_it_knows_more_than_frequencies_and_than_its_untrained_copy(measures):
    found = measures["perplexity"]
    assert found["trained"] < found["unigram"] < found["uniform"] < found["untrained"]
    layer = f"layer {load_settings({}).embedding.layer}"
    for group in ("test", "all"):
        lead = measures["neighbours"][group]["trained_minus"]
        assert lead["untrained"][layer]["low"] > 0
        assert lead["composition and length"][layer]["low"] > 0


def test_the_card_shows_the_figures(measures):
    shown = [cells[-1] for cells in table_below("Hidden residues")]
    found = measures["perplexity"]
    names = ("uniform", "unigram", "untrained", "trained", "trained, seen proteins")
    assert shown == [f"{found[name]:.2f}" for name in names]

    def told(figure):
        return "{value:.3f} ({low:.3f} to {high:.3f})".format(**figure)

    neighbours = measures["neighbours"]
    for name, raw, every, test in table_below("Nearest neighbours"):
        figures = neighbours["all"]["precision_at_1"][name]
        assert raw == f"{figures['raw']['value']:.3f}"
        assert every == told(figures["whitened"])
        assert test == told(neighbours["test"]["precision_at_1"][name]["whitened"])
    text = " ".join(CARD.read_text().split())
    for group in ("all", "test"):
        for other in ("untrained", "composition and length"):
            assert told(neighbours[group]["trained_minus"][other]["layer 3"]) in text
    assert re.search(r"Dipeptide counts are ahead of it\*\*, by ([\d.]+)", text)[1] == (
        f"{-neighbours['all']['trained_minus']['dipeptides']['layer 3']['value']:.3f}"
    )


def test_the_means_of_all_layers_are_those_that_the_engine_gives():
    encoder = load_encoder("esmc_demo", device="cpu", precision="bfloat16")
    sequences = ["MKVLAAGIVGLPNVGKS", "WWPLC", "MKVLAAGIVGLPNVGKA"]
    means, residues = means_of_layers(load_encoder("esmc_demo", device="cpu"), sequences)
    assert len(means) == 4
    assert residues[0].shape == (12, 256)
    for layer in (1, 3):
        expected = encoder.embed(sequences, layer=layer)
        error = abs(means[layer] - expected).max() / abs(expected).max()
        assert error < 0.02


class TestSource:
    @pytest.fixture
    def source(self, tmp_path, monkeypatch, write_fasta):
        """Return a folder with two files of records, which passes for the source."""
        ids = [record.split()[0] for record in _headers(4)]
        first = write_fasta([(ids[0], "MKV"), (ids[1], "MKVL"), (ids[0], "MAAA")], "a.fasta")
        second = write_fasta([(ids[2], "MKV"), (ids[3], "MWWW")], "b.fasta")
        files = {path.name: storage.sha256_of(path) for path in (first, second)}
        for module in (source_proteins, data.cut_proteins):
            monkeypatch.setattr(module, "SOURCE_FILES", files)
        return first.parent, ids

    def test_ids_and_sequences_are_read_once(self, source):
        folder, ids = source
        proteins = read_source(folder)
        assert [protein.sequence_id for protein in proteins] == [ids[0], ids[1], ids[3]]
        assert {protein.split for protein in proteins} <= {"train", "validation", "test"}

    def test_another_source_is_refused(self, source):
        folder, _ = source
        (folder / "b.fasta").write_text(">x\nMK\n")
        with pytest.raises(InputError, match=r"b\.fasta: not the file of"):
            read_source(folder)

    @pytest.mark.parametrize("steps", ["0", "-5"])
    def test_training_of_no_steps_is_refused(self, source, tmp_path, capsys, steps):
        folder, _ = source
        arguments = ["--source", str(folder), "--output", str(tmp_path / "out"), "--steps", steps]
        assert train_encoder.main(arguments) == 2
        assert f"steps {steps}: expected 1 or more" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_weights_of_another_record_are_not_judged(self, source, tmp_path):
        folder, _ = source
        (tmp_path / "encoder.safetensors").write_bytes(b"other")
        (tmp_path / RECORD).write_text(json.dumps({"sha256": "0" * 64, "options": {}}))
        with pytest.raises(InputError, match=r"not the record of encoder\.safetensors"):
            judge_encoder.judge_encoder(folder, tmp_path)


def _headers(count):
    from esm_sae.formats.fasta import read_fasta

    records = read_fasta(data.bundled_fasta())
    return [record.header for record, _ in zip(records, range(count), strict=False)]
