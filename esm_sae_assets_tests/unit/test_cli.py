import importlib
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from esm_sae import cli
from esm_sae.errors import InputError
from esm_sae.progress import LOGGER, progress, set_quiet


@pytest.fixture(autouse=True)
def _restore_what_a_command_sets():
    root, level, own = logging.getLogger(), logging.getLogger().level, LOGGER.level
    handlers = list(root.handlers)
    with warnings.catch_warnings():
        yield
    root.setLevel(level)
    LOGGER.setLevel(own)
    root.handlers[:] = handlers
    set_quiet(False)


def parser(**options):
    return cli.command("test", "Tests.", "python -m esm_sae.test --output x", **options)


def test_a_summary_goes_to_standard_output(capsys):
    status = cli.run(parser(), lambda options: f"wrote {options.output}", ["--output", "x"])
    assert (status, *capsys.readouterr()) == (0, "wrote x\n", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("x.fasta: empty"), "error: x.fasta: empty\n"),
        (InputError("record 'a\x0b\nb': bad"), "error: record 'a b': bad\n"),
        (OSError(28, "No space left on device", "/x/y"), "error: /x/y: No space left on device\n"),
        (OSError("odd"), "error: odd\n"),
        (OSError(2, "No such file", "a\x1b[2J\n.fasta"), "error: a?[2J .fasta: No such file\n"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(capsys, error, line):
    def work(options):
        raise error

    status = cli.run(parser(), work, ["--output", "x"])
    assert (status, *capsys.readouterr()) == (2, "", line)


def test_a_fault_of_the_program_is_not_hidden():
    def work(options):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        cli.run(parser(), work, ["--output", "x"])


def test_output_is_required_unless_there_is_a_default(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(parser(), lambda options: "", [])
    assert caught.value.code == 2
    assert "--output" in capsys.readouterr().err
    default = parser(output="data/L{L}_k{k}")
    assert cli.run(default, lambda options: str(options.output), []) == 0
    assert capsys.readouterr().out == "None\n"


def test_a_url_for_output_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(parser(), lambda options: "", ["--output", "s3://bucket/x"])
    assert caught.value.code == 2
    assert "s3://bucket/x: is a URL" in capsys.readouterr().err


def test_shared_options():
    options = parser(seed=True).parse_args(["--output", "x/y", "--seed", "3", "--quiet"])
    assert (options.output, options.seed, options.quiet) == (Path("x/y"), 3, True)
    assert parser(seed=True).parse_args(["--output", "x"]).seed == 0
    with pytest.raises(SystemExit):
        parser().parse_args(["--output", "x", "--seed", "3"])


@pytest.mark.parametrize(
    "command",
    ["cluster", "embed_uniref", "sample_fasta", "subsample_cluster", "train", "data.cut_proteins"],
)
@pytest.mark.parametrize("seed", ["-1", "1.5", "x"])
def test_what_is_no_seed_is_refused_by_every_command(capsys, command, seed):
    main = importlib.import_module(f"esm_sae.{command}").main
    with pytest.raises(SystemExit) as caught:
        main(["--output", "x", "--seed", seed])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: argument --seed: '{seed}' is no seed; give a whole number from 0 on; "
        f"`python -m esm_sae.{command} --help` lists the options\n"
    )


def test_help_shows_the_example(capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: python -m esm_sae.test" in shown
    assert "example:\n  python -m esm_sae.test --output x" in shown


WORK = """
import sys, warnings
from esm_sae import cli, progress
progress._SECONDS_BETWEEN_LINES = 0.0

def work(options):
    warnings.warn("unknown provenance")
    warnings.warn("of a library", DeprecationWarning)
    with progress.progress(2, unit="rows", description="working") as bar:
        bar.update(2)
    return "done"

sys.exit(cli.run(cli.command("x", "X.", "x"), work, ["--output", "x", *sys.argv[1:]]))
"""


def test_progress_and_own_warnings_go_to_standard_error(python):
    result = python(WORK)
    assert result.stdout == "done\n"
    first, second = result.stderr.splitlines()
    assert first == "warning: unknown provenance"
    assert second.startswith("working: 2 of 2 rows")


def test_quiet_leaves_warnings_only(python):
    result = python(WORK, "--quiet")
    assert (result.stdout, result.stderr) == ("done\n", "warning: unknown provenance\n")


def test_quiet_holds_for_progress_of_the_process(capsys):
    def work(options):
        with progress(1, unit="rows", description="working") as bar:
            bar.update(1)
        return "done"

    assert cli.run(parser(), work, ["--output", "x", "--quiet"]) == 0
    assert capsys.readouterr() == ("done\n", "")


def test_an_output_does_not_take_the_place_of_an_input(tmp_path, capsys):
    source = tmp_path / "a.fasta"
    source.write_text(">a\nMKV\n")
    line = parser()
    line.add_argument("--fasta")
    status = cli.run(line, lambda _: "", ["--output", str(source), "--fasta", str(source)])
    assert status == 2
    assert "is the input of --fasta" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output", "--fasta"])
def test_an_empty_value_is_refused(option, capsys):
    line = parser()
    line.add_argument("--fasta")
    with pytest.raises(SystemExit) as caught:
        cli.run(line, lambda _: "", ["--output", "x", option, ""])
    assert caught.value.code == 2
    assert "it is empty" in capsys.readouterr().err


def test_too_little_memory_is_one_line(capsys):
    def work(_):
        raise MemoryError("Unable to allocate 1.82 PiB")

    assert cli.run(parser(), work, ["--output", "x"]) == 2
    assert capsys.readouterr().err == "error: not enough memory (Unable to allocate 1.82 PiB)\n"


def test_an_interrupted_command_ends_without_a_stack_trace(capsys):
    def work(_):
        raise KeyboardInterrupt

    assert cli.run(parser(), work, ["--output", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


COMMANDS = [
    "analyze",
    "cluster",
    "clusters_to_json",
    "download",
    "embed_clusters",
    "embed_uniref",
    "pt_to_npy",
    "sample_fasta",
    "subsample_cluster",
    "train",
]


def run_with_numpy_that(does, command, tmp_path, python_environment):
    """Run a command whose import of NumPy does something else."""
    (tmp_path / "numpy.py").write_text(does)
    path = f"{tmp_path}{os.pathsep}{python_environment['PYTHONPATH']}"
    return subprocess.run(
        [sys.executable, "-m", f"esm_sae.{command}", "--help"],
        env=python_environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_interrupted_while_it_imports_ends_likewise(
    tmp_path, python_environment, command
):
    interrupt = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)"
    done = run_with_numpy_that(interrupt, command, tmp_path, python_environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_fault_while_a_command_imports_is_not_hidden(tmp_path, python_environment):
    done = run_with_numpy_that("1 / 0", "sample_fasta", tmp_path, python_environment)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_importing_the_module_leaves_interrupts_of_other_programs_alone(python):
    done = python("import sys, esm_sae.cli; print(sys.excepthook is sys.__excepthook__)")
    assert done.stdout == "True\n"
