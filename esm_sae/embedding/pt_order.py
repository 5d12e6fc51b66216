"""Whether what .pt files say of their places fits the rows they hold."""

from collections.abc import Sequence
from itertools import accumulate

from esm_sae.embedding.pt_files import PtFile


def trouble_with(files: Sequence[PtFile], sizes: Sequence[int], *, first: int | None) -> str | None:
    """Say which ``start_idx`` or ``end_idx`` does not fit, None where all do.

    ``end_idx`` may be the number behind the last row or that of the last row.

    Args:
        files: in their order.
        sizes: how much each holds of what the numbers count: rows, or proteins.
        first: number that the first file has to begin with; None: the one it says.
    """
    at = first if first is not None else _first_number(files[0], sizes[0])
    before = None
    for file, size in zip(files, sizes, strict=True):
        if file.start is not None and file.start != at:
            return f"{file.path}: {_misplaced(file.start, at, before)}"
        at += size
        if file.end is not None and file.end not in (at, at - 1):
            return f"{file.path}: end_idx is {file.end}, its {size:,} rows end at {at}"
        before = file
    return None


def are_in_place(files: Sequence[PtFile], sizes: Sequence[int]) -> bool:
    """Whether every ``start_idx`` or every ``end_idx`` alone says that the files are in place.

    The original scripts wrote a ``start_idx`` that drifted where the rows of a file were no
    multiple of the batch; the other number then still tells that nothing is missing.
    """
    starts, ends = [file.start for file in files], [file.end for file in files]
    sums = list(accumulate(sizes, initial=0))
    return starts == sums[:-1] or ends in (sums[1:], [end - 1 for end in sums[1:]])


def _first_number(file: PtFile, size: int) -> int:
    if file.start is not None:
        return file.start
    return file.end - size if file.end is not None else 0


def _misplaced(start: int, at: int, before: PtFile | None) -> str:
    if before is None:
        return f"start_idx is {start}, but no file holds the rows before it"
    name = before.path.name
    if start < at:
        return f"start_idx is {start}, {at - start:,} rows overlap with {name}, which ends at {at}"
    return (
        f"start_idx is {start}, {start - at:,} rows are missing behind {name}, which ends at {at}"
    )
