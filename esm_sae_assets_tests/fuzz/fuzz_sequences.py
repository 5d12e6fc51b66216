"""Fuzzing of what reads foreign bytes: records, headers, compressed streams.

    pip install atheris
    python esm_sae_assets_tests/fuzz/fuzz_sequences.py records CORPUS -max_total_time=600

``records``, ``headers`` or ``streams`` is what is fuzzed; what follows goes to libFuzzer. Each
input is checked against a slow reference. ``corpus/`` has the inputs that found something new, and
``test_fuzz_corpus.py`` runs all of them in every test run.
"""

import gzip
import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
from backports import zstd

from esm_sae.errors import InputError, one_line
from esm_sae.formats import fasta_buffers, fasta_reading, fasta_streams
from esm_sae.formats.compression import compression_at, decompressed
from esm_sae.formats.fasta import records_of
from esm_sae.formats.fasta_blocks import Block
from esm_sae.formats.headers import OTHER, parse_header, parse_headers

_FAST_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None

Found = list[tuple[str, str, int]] | str


def check_records(data: bytes) -> None:
    """Both block readers find what a line reader finds, whatever the size of their blocks."""
    # What starts like a compressed file is another subject.
    if not data or compression_at(data[1:]) is not None:
        return
    block_bytes, content = 2 + data[0], data[1:]
    expected = _by_lines(content)
    assert _by_blocks(content, block_bytes) == expected
    assert _by_ranges(content, block_bytes) == expected


def check_headers(data: bytes) -> None:
    """One header and a column of them are parsed alike, to values that fit the columns."""
    headers = data.decode("utf-8", errors="replace").split("\n")
    parsed = [parse_header(header) for header in headers]
    assert parse_headers(pl.Series(headers, dtype=pl.String)).collect().rows() == [
        tuple(each) for each in parsed
    ]
    for each in parsed:
        assert each.taxon != ""
        assert each.style != OTHER or (each.taxon, each.taxid, each.size) == (None, None, None)


def check_streams(data: bytes) -> None:
    """A compressed stream gives what the standard library gives, or an error that names it."""
    with io.BytesIO(data) as file:
        try:
            with decompressed(file, "x") as opened:
                content = opened.read()
        except InputError as error:
            assert str(error).startswith("x: the ")  # noqa: PT017
            return
    if data.startswith(b"\x1f\x8b"):
        assert content == gzip.decompress(data)
    elif data.startswith(b"\x28\xb5\x2f\xfd"):
        assert content == zstd.decompress(data)
    else:
        assert content == data


CHECKS: dict[str, Callable[[bytes], None]] = {
    "records": check_records,
    "headers": check_headers,
    "streams": check_streams,
}


def _by_blocks(content: bytes, block_bytes: int) -> Found:
    buffer = fasta_buffers.new_buffer(block_bytes)
    found = []
    try:
        for filled in fasta_streams.fill_buffers(io.BytesIO(content), "x", lambda: buffer):
            block = fasta_reading._locate(filled, "x")
            found += _fields(block)
    except InputError as error:
        return str(error)
    return found


def _by_ranges(content: bytes, block_bytes: int) -> Found:
    with (
        mock.patch.multiple(fasta_reading, _BLOCK_BYTES=block_bytes, _SLACK=1),
        tempfile.TemporaryDirectory(dir=_FAST_FOLDER) as folder,
    ):
        path = Path(folder) / "x"
        path.write_bytes(content)
        try:
            with fasta_reading.BlockReader(path) as blocks:
                return [fields for block in blocks for fields in _fields(block)]
        except InputError as error:
            return str(error).replace(str(path), "x")


def _fields(block: Block) -> list[tuple[str, str, int]]:
    records = records_of(block, np.arange(len(block.starts)))
    assert [len(record.sequence) for record in records] == block.lengths.tolist()
    return [tuple(record) for record in records]


def _by_lines(content: bytes) -> Found:
    records: list[list[bytes]] = []
    offsets = []
    position = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+", content):
        if line.startswith(b">"):
            records.append([line])
            offsets.append(position)
        elif records:
            records[-1].append(line)
        elif line.strip():
            return "x: does not start with '>'; is it a FASTA file?"
        position += len(line)
    if not records:
        return "x: empty, it holds no FASTA record"
    found = []
    for (header, *lines), offset in zip(records, offsets, strict=True):
        name = header[1:].rstrip(b"\n").rstrip(b"\r").decode("utf-8", errors="replace")
        sequence = b"".join(b"".join(lines).split()).upper().removesuffix(b"*")
        where = one_line(f"x: record '{fasta_buffers.shown(name)}' at byte {offset}")
        if not name.strip(" \t\r"):
            return f"{where} has no id after '>'; give it one"
        if not sequence:
            return f"{where} has no sequence; remove it or add its residues"
        for at, letter in enumerate(sequence):
            if not ord("A") <= letter <= ord("Z"):
                return (
                    f"{where} has {chr(letter)!r} at residue {at + 1}, which is not a residue "
                    "letter; is this a protein FASTA file without gaps?"
                )
        found.append((name, sequence.decode(), offset))
    return found


if __name__ == "__main__":
    import atheris

    check = CHECKS[sys.argv.pop(1)]
    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
