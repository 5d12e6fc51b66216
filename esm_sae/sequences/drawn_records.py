"""Reading the records that were drawn, by seeking."""

import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.fasta_blocks import Block, locate_records

_BATCH_BYTES = 1 << 22


class RecordsInFile(NamedTuple):
    """Records of an open file.

    Attributes:
        descriptor: of the file, which is plain.
        offsets: (n,) where each starts, ascending.
        sizes: (n,) its bytes.
    """

    descriptor: int
    offsets: np.ndarray
    sizes: np.ndarray


def read_records(records: RecordsInFile, source: storage.PathLike) -> Iterator[Block]:
    """Read records in blocks of some 4 MiB; a block's offset counts the bytes read before it.

    Args:
        records: which ones.
        source: the file that they were drawn from, named in errors.

    Raises:
        InputError: they are not what was drawn there.
    """
    position = 0
    # Many small reads, not a mapping: a file cut short underneath would kill the process.
    for batch in _batches(records.sizes):
        offsets, sizes = records.offsets[batch], records.sizes[batch]
        places = zip(sizes.tolist(), offsets.tolist(), strict=True)
        content = b"".join([os.pread(records.descriptor, size, at) for size, at in places])
        block = _locate(content, sizes, position)
        if block is None:
            raise changed_meanwhile(source)
        yield block
        position += len(block.content)


def changed_meanwhile(source: storage.PathLike) -> InputError:
    """Return the error of a source that is not any more what it was."""
    return InputError(f"{source}: changed while it was read; sample it again")


def _batches(sizes: np.ndarray) -> Iterator[slice]:
    ends = np.cumsum(sizes, dtype=np.int64)
    cuts = np.flatnonzero(np.diff(ends // _BATCH_BYTES)) + 1
    bounds = [0, *cuts.tolist(), len(sizes)]
    return (slice(first, last) for first, last in itertools.pairwise(bounds))


def _locate(content: bytes, sizes: np.ndarray, position: int) -> Block | None:
    """Return the records; None if they are not of these sizes."""
    if not content.endswith(b"\n"):
        content += b"\n"
    if not content.startswith(b">"):
        return None
    try:
        block = locate_records(np.frombuffer(content, dtype=np.uint8), "", position)
    except InputError:
        return None
    return block if np.array_equal(block.ends - block.starts, sizes) else None
