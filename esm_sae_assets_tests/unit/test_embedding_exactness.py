"""Rows do not depend on the batches that they were computed in: real proteins, every pooling."""

import itertools

import numpy as np
import pytest

from esm_sae.data import bundled_fasta
from esm_sae.embedding import EmbeddingOptions, embed_shard, load_encoder, open_shards
from esm_sae.embedding.options import POOLINGS
from esm_sae.embedding.pooling import pool
from esm_sae.formats.fasta import read_fasta

LENGTHS = (2, 3, 17, 90, 92, 95, 240, 251, 700, 2048)


@pytest.fixture(scope="module")
def demo():
    return load_encoder("esmc_demo", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def proteins():
    """Real proteins cut to very unequal lengths, in no order."""
    records = itertools.islice(read_fasta(bundled_fasta()), 4000)
    found = sorted((record.sequence for record in records), key=len)
    lengths = np.array([len(sequence) for sequence in found])
    cut = [found[np.searchsorted(lengths, length)][:length] for length in LENGTHS]
    assert [len(sequence) for sequence in cut] == list(LENGTHS)
    return [cut[number] for number in np.random.default_rng(0).permutation(len(cut))]


@pytest.fixture(scope="module")
def alone(demo, proteins):
    """Return a function that embeds one protein at a time."""
    cache = {}

    def rows(pooling, layer):
        if (pooling, layer) not in cache:
            each = [demo.embed([p], pooling=pooling, layer=layer) for p in proteins]
            cache[pooling, layer] = np.concatenate(each)
        return cache[pooling, layer]

    return rows


def relative_error(rows, expected):
    norms = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(rows - expected, axis=1) / norms).max()


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_any_batching_equals_one_at_a_time(demo, proteins, alone, pooling, layer):
    for batch_tokens in (300, 100_000):
        rows = demo.embed(proteins, pooling=pooling, layer=layer, batch_tokens=batch_tokens)
        assert relative_error(rows, alone(pooling, layer)) < 1e-5


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("pooling", ["mean", "max", "last", "bos"])
def test_padding_to_any_length_changes_nothing(demo, proteins, alone, pooling, layer):
    ids = [demo.backbone.vocabulary.encode(protein).ids for protein in proteins]
    owned = [(0, len(protein)) for protein in proteins]
    rows = pool(demo.states(ids, layer=layer), owned, pooling).numpy()
    assert relative_error(rows, alone(pooling, layer)) < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_shards_hold_the_same_rows_for_any_budget(
    demo, proteins, alone, write_fasta, tmp_path, pooling
):
    fasta = write_fasta([(f"P{number}", protein) for number, protein in enumerate(proteins)])
    for batch_tokens in (300, 100_000):
        options = EmbeddingOptions(pooling=pooling, batch_tokens=batch_tokens)
        folder = tmp_path / f"shards_{batch_tokens}"
        embed_shard(fasta, folder, shard=0, count=1, encoder=demo, options=options)
        rows = np.asarray(open_shards(folder).arrays[0])
        assert relative_error(rows, alone(pooling, -1)) < 1e-5
