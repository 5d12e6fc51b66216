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
from collections.abc import Callable

import polars as pl
from backports import zstd

from esm_sae.errors import InputError
from esm_sae.formats import fasta_streams
from esm_sae.formats.compression import decompressed
from esm_sae.formats.fasta import records_of
from esm_sae.formats.fasta_blocks import locate_records
from esm_sae.formats.headers import OTHER, parse_header, parse_headers

Found = list[tuple[str, str, int]] | str


def check_records(data: bytes) -> None:
    """The block reader finds what a line reader finds, whatever the size of its blocks."""
    if not data:
        return
    block_bytes, content = 2 + data[0], data[1:]
    assert _by_blocks(content, block_bytes) == _by_lines(content)


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
    buffer = fasta_streams.new_buffer(block_bytes)
    found = []
    try:
        for filled in fasta_streams.fill_buffers(io.BytesIO(content), "x", lambda: buffer):
            part = filled.buffer[filled.start : filled.stop]
            block = locate_records(part, "x", filled.offset)
            every = range(len(block.starts))
            records = records_of(block, list(every))
            assert [len(record.sequence) for record in records] == block.lengths.tolist()
            found += [tuple(record) for record in records]
    except InputError as error:
        return str(error)
    return found


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
        where = f"x: record '{name[:60].strip()}' at byte {offset}"
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
