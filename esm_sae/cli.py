"""What the commands share: options, the summary on standard output, errors on standard error."""

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from esm_sae import storage
from esm_sae.errors import InputError, one_line
from esm_sae.progress import set_quiet
from esm_sae.url_secrets import without_secrets

# What shells report of a program that SIGINT ended: 128 + 2.
_INTERRUPTED = 130


def command(
    name: str,
    description: str,
    example: str,
    *,
    output: str | None = None,
    output_alias: str | None = None,
    seed: bool = False,
) -> argparse.ArgumentParser:
    """Return a parser with the options that all commands share.

    Args:
        name: module name under ``esm_sae``.
        description: one sentence on what the command does.
        example: a command line shown at the end of ``--help``.
        output: help on the default of ``--output``; None makes the option required.
        output_alias: another name of the option ``--output``, such as ``--output_dir``.
        seed: whether chance is involved.
    """
    parser = _Parser(
        prog=f"python -m esm_sae.{name}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        *([output_alias] if output_alias else []),
        type=local_path,
        metavar="PATH",
        required=output is None,
        help="where the result goes" + (f" (default: {output})" if output else ""),
    )
    if seed:
        parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def add_length_limits(parser: argparse.ArgumentParser) -> None:
    """Add ``--min_len`` and ``--max_len``, the lengths of sequences that are taken."""
    parser.add_argument(
        "--min_len", type=int, default=1, metavar="N", help="shortest sequence (default: 1)"
    )
    parser.add_argument(
        "--max_len", type=int, metavar="N", help="longest sequence (default: no limit)"
    )


def seed_number(text: str) -> int:
    """Return the seed that an option gives.

    Raises:
        ArgumentTypeError: it is no whole number from 0 on.
    """
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no seed; give a whole number from 0 on")
    return int(text)


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a checkpoint and say what it may not record."""
    parser.add_argument(
        "--checkpoint",
        type=_path_or_hub,
        required=True,
        metavar="PATH",
        help="checkpoint_epoch_N.npy, the folder of a training or one made by share, or "
        "hf://ORG/NAME[@REVISION] of such a folder on the model hub",
    )
    parser.add_argument(
        "--topk", type=int, metavar="K", help="k, for a checkpoint that does not record it"
    )
    parser.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="rows are z-scored, for a checkpoint that does not record it",
    )


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], str],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the options, do the work and print its summary; return the exit status.

    The status is 0, or 2 with one ``error: ...`` line for input that cannot be used, or 130 when
    the user interrupts.
    """
    options = parser.parse_args(argv)
    for name, value in vars(options).items():
        if value == "":
            parser.error(f"argument --{name}: expected a value, it is empty")
    warnings.showwarning = _show_warning
    set_quiet(options.quiet)
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        format="%(message)s",
        stream=sys.stderr,
    )
    # Only our own lines: libraries log to the same root.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("esm_sae").setLevel(logging.WARNING if options.quiet else logging.INFO)
    try:
        _spare_inputs(options)
        print(work(options))
    except InputError as error:
        print(f"error: {_compact(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_compact(_describe(error))}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: not enough memory ({_compact(str(error))})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def local_path(text: str) -> Path:
    """Return the path that an option gives.

    Raises:
        ArgumentTypeError: it is a URL, or empty.
    """
    if storage.is_url(text):
        raise argparse.ArgumentTypeError(
            f"{without_secrets(text)}: is a URL; results are written to local paths"
        )
    if not text:
        raise argparse.ArgumentTypeError("expected a path, it is empty")
    return Path(text)


def _path_or_hub(text: str) -> Path | str:
    """Return a local path; of the model hub the text, which a Path would change."""
    return text if storage.is_hub_path(text) else Path(text)


def _spare_inputs(options: argparse.Namespace) -> None:
    """Refuse an output that would take the place of an input file."""
    output = options.output
    if output is None or not output.is_file():
        return
    for name, value in vars(options).items():
        path = storage.local_path(value) if isinstance(value, str | Path) else None
        is_file = path is not None and path.is_file()
        if name != "output" and is_file and output.samefile(path):
            raise InputError(f"{output}: is the input of --{name}; name another file to write")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without a usage of twenty."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {_compact(message)}; `{self.prog} --help` lists the options\n")


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    # Only our own warnings are for the user; libraries' go by their categories.
    if category is UserWarning:
        print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _show_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        raise SystemExit(_INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


def _is_in_command() -> bool:
    spec = sys.modules["__main__"].__spec__
    return spec is not None and spec.name.startswith("esm_sae.")


def _compact(message: str) -> str:
    # A message may quote a library, whose lines are indented.
    return " ".join(one_line(message).split())


def _describe(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


# A command imports this module first: an interrupt while it imports the others, which takes
# seconds, is not in reach of ``run``.
if _is_in_command():
    sys.excepthook = _show_end
