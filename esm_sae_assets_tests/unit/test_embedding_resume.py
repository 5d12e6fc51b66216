import errno
import json
import os
import runpy
import signal
from pathlib import Path

import numpy as np
import pytest

from esm_sae.embedding import EmbeddingOptions, embed_shard, journal, load_encoder, open_shards
from esm_sae.embedding.rows import pieces_of
from esm_sae.errors import InputError, ResumableError
from esm_sae.formats.fasta import read_fasta

TOY_FILE = Path(__file__).with_name("toy_encoder.py")
runpy.run_path(str(TOY_FILE))
OPTIONS = {
    "pooling": "residue",
    "batch_tokens": 50,
    "max_length": 16,
    "long_sequences": "window",
}

EMBED_UNTIL_KILLED = """
import json, runpy, sys, time
from esm_sae.embedding import EmbeddingOptions, embed_shard, journal, load_encoder
runpy.run_path(sys.argv[1])
journal._SECONDS_BETWEEN_ENTRIES = 0
encoder = load_encoder("toy", device="cpu")
states, batch, limit = encoder.backbone.states, 0, float(sys.argv[6])
def stop(tokens, **options):
    global batch
    batch += 1
    if batch == int(sys.argv[4]):
        print("half way", flush=True)
        time.sleep(600)
    if tokens.numel() > limit:
        raise MemoryError
    return states(tokens, **options)
encoder.backbone.states = stop
options = EmbeddingOptions(**json.loads(sys.argv[5]))
embed_shard(sys.argv[2], sys.argv[3], shard=0, count=1, encoder=encoder, options=options)
"""


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


@pytest.fixture
def fasta(write_fasta, random_proteins):
    return write_fasta(random_proteins(23))


@pytest.fixture
def kill(start_python, fasta, tmp_path):
    """Return a function that embeds a shard and is killed in a batch; its folder."""

    def run(batch, limit="inf", **options):
        folder = tmp_path / "killed"
        arguments = [TOY_FILE, fasta, folder, batch, json.dumps(options or OPTIONS), limit]
        process = start_python(EMBED_UNTIL_KILLED, *map(str, arguments))
        assert process.stdout.readline() == "half way\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return folder

    return run


def embed(fasta, folder, encoder, **options):
    return embed_shard(
        fasta,
        folder,
        shard=0,
        count=1,
        encoder=encoder,
        options=EmbeddingOptions(**(options or OPTIONS)),
    )


def work_folders(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".work")]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def watch(encoder):
    """Return a list that gets the number of sequences of each batch."""
    states, sizes = encoder.backbone.states, []

    def counted(tokens, **options):
        sizes.append(len(tokens))
        return states(tokens, **options)

    encoder.backbone.states = counted
    return sizes


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_a_killed_shard_is_gone_on_with_and_has_the_same_bytes(kill, toy, fasta, tmp_path, batch):
    sizes = watch(toy)
    undisturbed = embed(fasta, tmp_path / "undisturbed", toy)
    every = list(sizes)
    folder = kill(batch)
    assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
    with pytest.raises(InputError, match="holds no"):
        open_shards(folder)

    sizes.clear()
    rerun = embed(fasta, folder, toy)
    assert sizes == every[batch - 1 :]
    assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed")
    assert (rerun.resumed > 0) == (batch > 1)
    assert rerun.batches == len(sizes)
    sequences = [record.sequence for record in read_fasta(fasta)]
    total = pieces_of(sequences, EmbeddingOptions(**OPTIONS)).lengths.sum()
    assert rerun.residues == round((1 - rerun.resumed) * total)
    assert rerun.residues <= undisturbed.residues == total
    assert undisturbed.resumed == 0


def test_the_halved_budget_is_remembered(kill, toy, fasta, tmp_path):
    sizes = watch(toy)
    embed(fasta, tmp_path / "one", toy, pooling="mean", batch_tokens=10)
    folder = kill(9, limit=60, pooling="mean", batch_tokens=500)
    recorded = json.loads((work_folders(folder)[0] / "journal.json").read_text())
    assert recorded["batch_tokens"] < 500
    sizes.clear()
    result = embed(fasta, folder, toy, pooling="mean", batch_tokens=500)
    assert sum(sizes) == 23 - recorded["pieces"]
    assert result.batch_tokens == recorded["batch_tokens"]
    np.testing.assert_allclose(
        open_shards(folder).arrays[0], open_shards(tmp_path / "one").arrays[0], atol=1e-6
    )


def test_the_work_of_other_options_is_removed(kill, toy, fasta):
    folder = kill(3)
    old = work_folders(folder)
    assert len(old) == 1
    sizes = watch(toy)
    embed(fasta, folder, toy, pooling="max")
    assert sum(sizes) == 23
    assert work_folders(folder) == []


@pytest.mark.parametrize("damage", ["journal", "matrix", "parts"])
def test_work_that_is_not_whole_is_done_again(kill, toy, fasta, tmp_path, damage):
    embed(fasta, tmp_path / "undisturbed", toy)
    folder = kill(4)
    work = work_folders(folder)[0]
    if damage == "journal":
        (work / "journal.json").write_text('{"pieces": 3')
    else:
        name = {"matrix": "embeddings_0000-of-0001.npy", "parts": "parts.npy"}[damage]
        (work / name).write_bytes((work / name).read_bytes()[:-1])
    assert embed(fasta, folder, toy).resumed == 0
    assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed")


def test_an_interrupted_shard_is_gone_on_with(toy, fasta, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    states, calls = toy.backbone.states, []

    def interrupted(tokens, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return states(tokens, **options)

    toy.backbone.states = interrupted
    with pytest.raises(KeyboardInterrupt):
        embed(fasta, tmp_path / "s", toy)
    rerun = embed(fasta, tmp_path / "s", toy)
    assert rerun.resumed > 0
    assert len(calls) == 5 + rerun.batches


def test_memory_that_others_take_half_way_costs_no_finished_batch(
    toy, fasta, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    sizes = watch(toy)
    embed(fasta, tmp_path / "undisturbed", toy)
    every = list(sizes)
    states = toy.backbone.states

    def out_of_memory(tokens, **options):
        if len(sizes) == len(every) + 4:
            raise MemoryError
        return states(tokens, **options)

    toy.backbone.states = out_of_memory
    with pytest.raises(ResumableError, match="do not fit into the memory of cpu"):
        embed(fasta, tmp_path / "s", toy)
    assert len(work_folders(tmp_path / "s")) == 1
    toy.backbone.states = states
    assert embed(fasta, tmp_path / "s", toy).resumed > 0
    assert sizes == 2 * every
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "undisturbed")


def test_a_full_disk_costs_an_entry_and_not_the_shard(toy, fasta, tmp_path, monkeypatch):
    embed(fasta, tmp_path / "undisturbed", toy)
    calls = []

    def full(*_):
        calls.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    monkeypatch.setattr(journal.storage, "publish_json", full)
    result = embed(fasta, tmp_path / "s", toy)
    assert len(calls) == result.batches + 1
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "undisturbed")


def test_another_error_in_writing_an_entry_is_none_of_ours(toy, fasta, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(journal.storage, "publish_json", broken)
    with pytest.raises(OSError, match="input/output error"):
        embed(fasta, tmp_path / "s", toy)


def test_what_a_call_computed_counts_for_itself(kill, toy, fasta):
    folder = kill(3, pooling="mean", batch_tokens=100)
    batches, states = [], toy.backbone.states

    def kept(tokens, **options):
        batches.append(tokens)
        return states(tokens, **options)

    toy.backbone.states = kept
    result = embed(fasta, folder, toy, pooling="mean", batch_tokens=100)
    pad = sum(int((tokens == toy.backbone.vocabulary.pad).sum()) for tokens in batches)
    share = pad / sum(tokens.numel() for tokens in batches)
    assert result.padding_share == pytest.approx(share, abs=1e-4)
    assert result.batch_tokens == 100


def test_rows_reach_the_disk_before_they_are_counted(tmp_path, monkeypatch):
    events = []

    class Matrix:
        def flush(self):
            events.append("flush")

    monkeypatch.setattr(journal.storage, "publish_json", lambda *_: events.append("entry"))
    keeper = journal.Journal(tmp_path, [Matrix(), Matrix()])
    keeper.note(journal.State(1, 10, 10))
    assert events == []
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_ENTRIES", 0)
    keeper.note(journal.State(2, 10, 20))
    assert events == ["flush", "flush", "entry"]


EMBED_WITH_LITTLE_ROOM = """
import resource, runpy, sys
from esm_sae import embed_uniref
runpy.run_path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
sys.exit(embed_uniref.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(("limit", "named"), [(8800, ".npy: needs 8,736 bytes"), (100, ".parquet")])
def test_a_full_disk_is_known_before_anything_is_computed(
    python, write_fasta, tmp_path, limit, named
):
    fasta = write_fasta([(f"P{number}", "MKVLAA" * 7) for number in range(13)])
    arguments = ["--fasta", fasta, "--output", tmp_path / "out", "--model", "toy", "--quiet"]
    arguments += ["--pooling", "residue", "--device", "cpu"]
    result = python(EMBED_WITH_LITTLE_ROOM, TOY_FILE, limit, *arguments, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: {tmp_path}/out/embeddings_0000-of-0001{named}")
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
