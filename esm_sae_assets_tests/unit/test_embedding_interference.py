"""Embedding while something else writes: to the source, to the folder, to the journal."""

import json
import runpy
import threading
from pathlib import Path

import pytest

from esm_sae.embedding import (
    EmbeddingOptions,
    embed_clusters,
    embed_fasta,
    journal,
    load_encoder,
    open_shards,
)
from esm_sae.embedding.passes import State
from esm_sae.errors import InputError
from esm_sae.formats.shards import shard_name

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


@pytest.fixture
def fasta(write_fasta, random_proteins):
    return write_fasta(random_proteins(12))


def on_first_batch(encoder, act):
    """Let something happen while the first batch is computed."""
    states, done = encoder.backbone.states, []

    def acting(tokens, **options):
        if not done:
            done.append(True)
            act()
        return states(tokens, **options)

    encoder.backbone.states = acting


def test_a_source_that_is_rewritten_between_shards_is_not_mixed(toy, fasta, tmp_path):
    text = fasta.read_text()
    reversed_lines = [line if line.startswith(">") else line[::-1] for line in text.splitlines()]
    on_first_batch(toy, lambda: fasta.write_text("\n".join(reversed_lines) + "\n"))
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"proteins\.fasta: was written to while it was read"):
        embed_fasta(fasta, out, encoder=toy, options=EmbeddingOptions(), sequences_per_shard=6)
    assert not (out / f"{shard_name(1, 2)}.npy").exists()
    fasta.write_text(text)
    embed_fasta(fasta, out, encoder=toy, options=EmbeddingOptions(), sequences_per_shard=6)
    assert open_shards(out).rows == 12


def test_of_two_calls_for_a_folder_the_second_waits(toy, fasta, tmp_path):
    out, other = tmp_path / "out", load_encoder("toy", device="cpu")
    outcome = {}

    def embed(name, encoder, pooling):
        product = embed_fasta(
            fasta,
            out,
            encoder=encoder,
            options=EmbeddingOptions(pooling=pooling),
            sequences_per_shard=6,
        )
        outcome[name] = product.manifest.summary["provenance"]["pooling"]

    second = threading.Thread(target=embed, args=("second", other, "max"))
    on_first_batch(toy, second.start)
    embed("first", toy, "mean")
    second.join()
    assert outcome == {"first": "mean", "second": "max"}
    assert open_shards(out).provenance.pooling == "max"


@pytest.mark.parametrize(
    "entry",
    [
        {"pieces": "3", "batch_tokens": 10, "tokens": 10},
        {"pieces": 2.5, "batch_tokens": 10, "tokens": 10},
        {"pieces": -2, "batch_tokens": 10, "tokens": 10},
        {"pieces": 2, "batch_tokens": None, "tokens": 10},
        {"pieces": 2, "batch_tokens": 0, "tokens": 10},
        {"pieces": 2, "batch_tokens": 10, "tokens": -5},
        {"pieces": True, "batch_tokens": 10, "tokens": 10},
        {"pieces": 2},
        [1, 2, 3],
    ],
)
def test_a_journal_that_cannot_be_one_is_none(tmp_path, entry):
    (tmp_path / "journal.json").write_text(json.dumps(entry))
    assert journal.read_journal(tmp_path) is None


def test_a_journal_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    journal.Journal(tmp_path, []).note(State(3, 10, 20))
    assert journal.read_journal(tmp_path) == State(3, 10, 20)


def test_residues_are_named_after_a_json(toy, tmp_path):
    clusters = tmp_path / "clusters.json"
    clusters.write_text(json.dumps({"a": [["MKV", "P1 one"]]}))
    with pytest.raises(InputError, match=r"x\.v2: the table beside it is named after it"):
        embed_clusters(
            clusters, tmp_path / "x.v2", encoder=toy, options=EmbeddingOptions(pooling="residue")
        )
