"""Removes objects that no manifest names from a data root on object storage.

They are what older outputs and killed uploads left. Without --remove they are only counted.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import timedelta

from esm_sae import storage
from esm_sae.errors import InputError, one_line
from esm_sae.remote import ObjectStore, Pruned, prune
from esm_sae_assets.settings import load_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Count or remove the objects; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m esm_sae_assets.prune", description=__doc__)
    parser.add_argument(
        "--older-than",
        type=_days,
        default=timedelta(days=7),
        metavar="DAYS",
        help="least age of what is removed, such as 7d (the default); a day or more",
    )
    parser.add_argument("--remove", action="store_true", help="remove them")
    options = parser.parse_args(argv)
    try:
        location = load_settings().location
        if not storage.is_url(location):
            raise InputError(f"{location}: is a folder; only object storage keeps old objects")
        found = prune(ObjectStore(location), older_than=options.older_than, remove=options.remove)
    # An OSError tells of a store that cannot be reached.
    except (InputError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    print(_summary(found, options.older_than.days, options.remove))
    return 0


def _days(text: str) -> timedelta:
    match = re.fullmatch("([0-9]{1,6})d?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no age; give days, such as 7d")
    return timedelta(days=int(match[1]))


def _summary(found: Pruned, days: int, removed: bool) -> str:
    what = "removed" if removed else f"older than {days} days; remove them with --remove"
    return "\n".join(
        [
            f"{found.named:>12,} objects ({found.named_bytes:,} bytes) that a manifest names",
            f"{found.unnamed:>12,} objects ({found.unnamed_bytes:,} bytes) that none names",
            f"{found.old:>12,} of them ({found.old_bytes:,} bytes) {what}",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
