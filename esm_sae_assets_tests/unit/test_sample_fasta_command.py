import gzip
import os
import signal
import subprocess
import sys

import pytest

from esm_sae import sample_fasta
from esm_sae.formats.fasta import read_fasta
from esm_sae.sequences import sample_fasta as sample

# Runs the command and kills itself without a trace of warning once a function was called n times.
SUDDEN_DEATH = """
import os, signal, sys
from esm_sae import sample_fasta, storage
from esm_sae.formats import fasta_reading, sequence_index
from esm_sae.sequences import draw, drawn_records

place, calls, *arguments = sys.argv[1:]
fasta_reading._BLOCK_BYTES = drawn_records._BATCH_BYTES = 500
sequence_index._ROWS_PER_PART = 50
owner, name = {
    "drawing": (draw.Draw, "place"), "copying": (drawn_records, "_locate"),
    "indexing": (sequence_index.IndexWriter, "_close_part"),
    "joining": (sequence_index.IndexWriter, "finish"), "publishing": (storage, "replace"),
}[place]
original, left = getattr(owner, name), int(calls)

def dying(*arguments):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(owner, name, dying)
sys.exit(sample_fasta.main(arguments))
"""


@pytest.fixture
def source(tmp_path, write_fasta, random_proteins):
    return write_fasta(random_proteins(900), "source.fasta.gz")


def test_the_summary_tells_what_was_drawn_and_dropped(tmp_path, source, capsys):
    target = tmp_path / "s.fasta"
    arguments = ["--fasta", str(source), "--output", str(target), "--n", "50", "--quiet"]
    arguments += ["--max_len", "30", "--min_len", "10", "--taxa", "1000", "Taxon 1"]
    assert sample_fasta.main(arguments) == 0
    records = list(read_fasta(source))
    fitting = [each for each in records if 10 <= len(each.sequence) <= 30]
    passing = [each for each in fitting if "=1000 " in each.header or "=1001 " in each.header]
    short = sum(len(each.sequence) < 10 for each in records)
    assert capsys.readouterr().out == (
        f"{target}: 50 of {len(passing)} records drawn; 900 read, {short} too short, "
        f"{900 - short - len(fitting)} too long, {len(fitting) - len(passing)} another taxon\n"
    )
    assert sample_fasta.main(arguments) == 0
    assert capsys.readouterr().out.endswith("; unchanged\n")


def test_the_command_and_the_function_write_the_same_bytes(tmp_path, source):
    options = ["--seed", "3", "--letters", "ACDEFGHIKLMNPQRSTVW", "--drop_identical", "--quiet"]
    target = tmp_path / "command" / "s.fasta"
    arguments = ["--fasta", str(source), "--output", str(target), "--n", "9", *options]
    assert sample_fasta.main(arguments) == 0
    called = tmp_path / "function" / "s.fasta"
    sample(source, called, 9, seed=3, letters="ACDEFGHIKLMNPQRSTVW", drop_identical=True)
    for path in called.parent.iterdir():
        assert (target.parent / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "cannot draw 0 records"),
        (["--n", "5", "--max_len", "2"], "none of its 900 records passes"),
        (["--n", "5", "--letters", "A1"], "letters 'A1': expected residue letters"),
        (["--n", "5", "--taxa", "no such taxon"], "900 another taxon"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, source, capsys, options, message):
    target = tmp_path / "new" / "s.fasta"
    arguments = ["--fasta", str(source), "--output", str(target), "--quiet", *options]
    assert sample_fasta.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_taxids_may_be_a_list(tmp_path, source):
    for number, taxa in enumerate((["1000,1001"], ["1000", "1001"])):
        target = tmp_path / str(number) / "s.fasta"
        arguments = ["--fasta", str(source), "--output", str(target), "--n", "9", "--quiet"]
        assert sample_fasta.main([*arguments, "--taxa", *taxa]) == 0
    assert (tmp_path / "0" / "s.fasta").read_bytes() == (tmp_path / "1" / "s.fasta").read_bytes()


@pytest.mark.parametrize("output", [".", "/", "/dev/null"])
def test_an_output_that_is_no_file_is_refused(source, capsys, output):
    assert sample_fasta.main(["--fasta", str(source), "--output", output, "--n", "9"]) == 2
    assert "expected a file to write" in capsys.readouterr().err
    assert not os.path.isfile("/dev/null")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    arguments = ["--fasta", str(tmp_path / "pipe"), "--output", str(tmp_path / "s.fasta")]
    assert sample_fasta.main([*arguments, "--n", "9"]) == 2
    assert "pipe: is no regular file" in capsys.readouterr().err


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("place", "calls"),
    [("drawing", 2), ("copying", 1), ("indexing", 1), ("joining", 0), ("publishing", 0),
     ("publishing", 1), ("publishing", 2)],
)  # fmt: skip
def test_killed_at_any_time_a_rerun_gives_the_right_bytes(
    tmp_path, source, python_environment, place, calls, compressed
):
    if not compressed:
        plain = tmp_path / "source.fasta"
        plain.write_bytes(gzip.decompress(source.read_bytes()))
        source = plain
    expected = tmp_path / "expected" / "s.fasta"
    sample(source, expected, 700, seed=1)
    target = tmp_path / "killed" / "s.fasta"
    sample(source, target, 700, seed=0)
    old = target.read_bytes()
    arguments = ["--fasta", str(source), "--output", str(target), "--n", "700", "--seed", "1"]
    killed = subprocess.run(
        [sys.executable, "-c", SUDDEN_DEATH, place, str(calls), *arguments],
        env=python_environment,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert target.read_bytes() in (old, expected.read_bytes())
    assert len(os.listdir(target.parent)) > 3 or place == "publishing"
    assert sample_fasta.main([*arguments, "--quiet"]) == 0
    names = {path.name: path.read_bytes() for path in expected.parent.iterdir()}
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == names
