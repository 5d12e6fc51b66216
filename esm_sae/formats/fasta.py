"""FASTA records and their headers."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from esm_sae import storage
from esm_sae.errors import InputError

_NOT_RESIDUE = re.compile(rb"[^A-Z]")
_GZIP_MAGIC = b"\x1f\x8b"
_UNIREF = re.compile(
    r"^(?P<name>.*?)\s*\bn=(?P<size>[0-9]{1,18})(?:\s+Tax=(?P<taxon>.*?))?(?:\s+TaxID=(?P<taxid>[0-9]{1,18}))?"
    r"(?:\s+RepID=(?P<rep_id>\S+))?\s*$"
)
# Numbers of up to 18 digits fit the 64 bits of an index column.
_TAXID = re.compile(r"[0-9]{1,18}")
_UNIPROT_FIELD = re.compile(r"\s(OS|OX|GN|PE|SV|Split)=")


class Record(NamedTuple):
    """One FASTA record.

    Attributes:
        header: the header line without its ``>``, otherwise byte for byte.
        sequence: the residues in upper case, without line breaks and without a final ``*``.
        offset: position of the record's ``>`` in the uncompressed bytes.
    """

    header: str
    sequence: str
    offset: int


class RawRecord(NamedTuple):
    """One FASTA record as it stands in the file, with its line ends."""

    header: bytes
    raw: bytes
    offset: int


class Header(NamedTuple):
    """What a header says.

    Attributes:
        sequence_id: the first word.
        name: the protein's name; empty where there is none.
        taxon: name of the taxon, None where the header names none.
        taxid: NCBI taxonomy id, None where the header gives none.
        size: number of members of a UniRef cluster (``n=``), else None.
        rep_id: representative of a UniRef cluster (``RepID=``), else None.
    """

    sequence_id: str
    name: str
    taxon: str | None
    taxid: int | None
    size: int | None
    rep_id: str | None


def read_fasta(source: storage.PathLike) -> Iterator[Record]:
    """Read the records of a plain or gzipped FASTA file, one at a time.

    Lower case, wrapped lines, blank lines, CRLF and a final ``*`` are accepted. The 26 letters
    of the IUPAC protein alphabet are residues. Memory is bounded by the longest record.

    Raises:
        InputError: the file is missing, empty, truncated, does not start with ``>``, or has a
            record with no id, no sequence or letters that are not residues (the record named).
    """
    for raw in read_raw(source):
        yield parse_record(raw, source)


def parse_record(raw: RawRecord, source: storage.PathLike) -> Record:
    """Turn the bytes of a record into header and sequence; ``source`` is named in errors."""
    sequence = b"".join(raw.raw[len(raw.header) + 1 :].split()).upper().removesuffix(b"*")
    header = raw.header.decode("utf-8", errors="replace")
    where = f"{os.fspath(source)}: record '{header[:60].strip()}' at byte {raw.offset}"
    if not header.strip():
        raise InputError(f"{where} has no id after '>'; give it one")
    if not sequence:
        raise InputError(f"{where} has no sequence; remove it or add its residues")
    wrong = _NOT_RESIDUE.search(sequence)
    if wrong:
        raise InputError(
            f"{where} has {wrong.group().decode('latin-1')!r} at residue {wrong.start() + 1}, "
            "which is not a residue letter; is this a protein FASTA file without gaps?"
        )
    return Record(header, sequence.decode("ascii"), raw.offset)


def read_raw(source: storage.PathLike) -> Iterator[RawRecord]:
    """Read the records of a FASTA file as bytes, unparsed.

    Raises:
        InputError: the file is missing, empty, truncated or does not start with ``>``.
    """
    name = os.fspath(source)
    with storage.open_binary(source) as file:
        lines = _lines(file)
        try:
            yield from _split(lines, name)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{name}: the gzip stream is truncated or damaged ({error}); fetch the file again"
            ) from None


def read_at(source: storage.PathLike, offsets: list[int]) -> Iterator[Record]:
    """Read the records that start at the given offsets, which must ascend.

    A plain local file is read by seeking; a compressed or remote one is read through.

    Raises:
        InputError: no record starts at an offset: the file changed since it was indexed.
    """
    found = _seek_records(source, offsets) if is_seekable(source) else _scan(source, offsets)
    for raw in found:
        yield parse_record(raw, source)


def is_seekable(source: storage.PathLike) -> bool:
    """Whether records of the file can be read by seeking: it is local and not compressed."""
    if storage.is_url(source):
        return False
    with storage.open_binary(source) as file:
        return file.read(2) != _GZIP_MAGIC


def parse_header(header: str) -> Header:
    """Parse a header in the style of UniRef or UniProtKB; others give an id and a name.

    >>> parse_header("UniRef50_P1 Kinase n=2 Tax=Homo sapiens TaxID=9606 RepID=K_HUMAN").taxid
    9606
    """
    sequence_id, rest = (*header.split(None, 1), "", "")[:2]
    uniref = _UNIREF.match(rest)
    if uniref:
        taxid = uniref["taxid"]
        return Header(
            sequence_id,
            uniref["name"],
            uniref["taxon"] or None,
            int(taxid) if taxid else None,
            int(uniref["size"]),
            uniref["rep_id"],
        )
    name, fields = _uniprot_fields(rest)
    taxid = _TAXID.fullmatch(fields.get("OX", ""))
    return Header(
        sequence_id,
        name,
        fields.get("OS") or None,
        int(taxid[0]) if taxid else None,
        None,
        None,
    )


def _uniprot_fields(rest: str) -> tuple[str, dict[str, str]]:
    parts = _UNIPROT_FIELD.split(" " + rest)
    fields = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    return parts[0].strip(), fields


def _lines(file: BinaryIO) -> Iterator[bytes]:
    buffered = io.BufferedReader(cast(Any, file), buffer_size=1 << 20)
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        return iter(gzip.GzipFile(fileobj=buffered))
    return iter(buffered)


def _split(lines: Iterator[bytes], name: str) -> Iterator[RawRecord]:
    parts: list[bytes] = []
    offset = start = 0
    for line in lines:
        if line.startswith(b">"):
            if parts:
                yield _raw(parts, start)
            parts, start = [line], offset
        elif parts:
            parts.append(line)
        elif line.strip():
            raise InputError(f"{name}: does not start with '>'; is it a FASTA file?")
        offset += len(line)
    if not parts:
        raise InputError(f"{name}: empty, it holds no FASTA record")
    yield _raw(parts, start)


def _raw(parts: list[bytes], offset: int) -> RawRecord:
    return RawRecord(parts[0][1:].rstrip(b"\r\n"), b"".join(parts), offset)


def _seek_records(source: storage.PathLike, offsets: list[int]) -> Iterator[RawRecord]:
    with storage.open_binary(source) as file:
        for offset in offsets:
            file.seek(max(offset - 1, 0))
            at_line_start = offset == 0 or file.read(1) == b"\n"
            parts = [file.readline()]
            if not at_line_start or not parts[0].startswith(b">"):
                raise _moved(source, offset)
            for line in file:
                if line.startswith(b">"):
                    break
                parts.append(line)
            yield _raw(parts, offset)


def _scan(source: storage.PathLike, offsets: list[int]) -> Iterator[RawRecord]:
    wanted = iter(offsets)
    offset = next(wanted, None)
    for raw in read_raw(source):
        if offset is None:
            return
        if raw.offset == offset:
            yield raw
            offset = next(wanted, None)
    if offset is not None:
        raise _moved(source, offset)


def _moved(source: storage.PathLike, offset: int) -> InputError:
    return InputError(
        f"{os.fspath(source)}: no record starts at byte {offset}; the file changed since it was "
        "indexed, make the index again"
    )
