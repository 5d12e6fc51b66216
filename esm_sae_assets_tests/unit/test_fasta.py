import bz2
import gzip
import re
import struct
import threading
import zlib

import numpy as np
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats import fasta, fasta_buffers, fasta_reading
from esm_sae.formats.fasta import read_at, read_fasta

HEADERS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\x00", exclude_categories=["Cs"]),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip())
SEQUENCES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", min_size=1, max_size=40)
RECORDS = st.lists(st.tuples(HEADERS, SEQUENCES), min_size=1, max_size=8)


@st.composite
def layouts(draw):
    """A FASTA file in some layout, with the records it holds."""
    records = draw(RECORDS)
    newline = draw(st.sampled_from([b"\n", b"\r\n"]))
    blank = st.sampled_from([b"", newline, b"  " + newline])
    parts = [draw(blank)]
    for header, sequence in records:
        star = draw(st.sampled_from(["", "*"]))
        width = draw(st.integers(1, 50))
        residues = sequence + star
        parts.append(b">" + header.encode() + newline)
        for at in range(0, len(residues), width):
            parts += [residues[at : at + width].encode() + newline, draw(blank)]
    content = b"".join(parts)
    if draw(st.booleans()):
        content = content.rstrip()
    return records, content


def gzipped(content: bytes, members: int) -> bytes:
    size = len(content) // members + 1
    return b"".join(gzip.compress(content[at : at + size]) for at in range(0, len(content), size))


def bgzipped(content: bytes) -> bytes:
    """Compress as bgzip does: small members with an extra field, and an empty one at the end."""
    members = []
    for block in [content[at : at + 50] for at in range(0, len(content), 50)] + [b""]:
        packed = zlib.compress(block, wbits=-15)
        size = struct.pack("<H", len(packed) + 25)
        head = b"\x1f\x8b\x08\x04" + b"\0" * 4 + b"\0\xff" + b"\x06\0BC\x02\0" + size
        members.append(head + packed + struct.pack("<II", zlib.crc32(block), len(block)))
    return b"".join(members)


def zstandard(content: bytes, frames: int) -> bytes:
    size = len(content) // frames + 1
    return b"".join(zstd.compress(content[at : at + size]) for at in range(0, len(content), size))


COMPRESSIONS = {
    "plain": lambda content: content,
    "gzip": lambda content: gzipped(content, 1),
    "members": lambda content: gzipped(content, 3),
    "bgzip": bgzipped,
    "zstd": lambda content: zstandard(content, 1),
    "frames": lambda content: zstandard(content, 3),
}


@given(layouts(), st.sampled_from(sorted(COMPRESSIONS)), st.sampled_from([4, 40, 1 << 20]))
def test_records_of_any_layout_are_read(tmp_path_factory, layout, compression, block_bytes):
    records, content = layout
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    path.write_bytes(COMPRESSIONS[compression](content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
        found = list(read_fasta(path))
    assert [(record.header, record.sequence) for record in found] == [
        (header, sequence.upper()) for header, sequence in records
    ]
    starts = [match.start() for match in re.finditer(rb"^>", content, re.MULTILINE)]
    assert [record.offset for record in found] == starts


@given(layouts(), st.sampled_from(sorted(COMPRESSIONS)), st.sampled_from([4, 40, 1 << 20]))
def test_reading_ahead_finds_the_same_records(tmp_path_factory, layout, compression, block_bytes):
    _, content = layout
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    path.write_bytes(COMPRESSIONS[compression](content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
        patch.setattr(fasta_reading, "_SLACK", block_bytes)
        with fasta_reading.BlockReader(path) as reader:
            found = read_through(reader)
            assert reader.bytes_read == reader.bytes_total == path.stat().st_size
    assert found == list(read_fasta(path))


def read_through(reader):
    """Read all records; what they are must not depend on the numbers in the block."""
    found = []
    for block in reader:
        records = fasta.records_of(block, np.arange(len(block.starts)))
        assert [len(record.sequence) for record in records] == block.lengths.tolist()
        found += records
    return found


@pytest.mark.parametrize("name", ["x.fasta", "x.fasta.gz"])
def test_a_reader_that_is_left_early_ends_its_threads(
    write_fasta, random_proteins, monkeypatch, name
):
    monkeypatch.setattr(fasta_reading, "_BLOCK_BYTES", 100)
    path = write_fasta(random_proteins(1000), name)
    before = threading.active_count()
    with fasta_reading.BlockReader(path) as reader:
        next(iter(reader))
    assert threading.active_count() == before


@given(layouts(), st.booleans(), st.sampled_from([0, 1 << 16]), st.data())
def test_reading_at_offsets_equals_scanning(tmp_path_factory, layout, compress, worth, data):
    _, content = layout
    path = tmp_path_factory.mktemp("fasta") / "x.fasta"
    path.write_bytes(gzip.compress(content) if compress else content)
    records = list(read_fasta(path))
    chosen = data.draw(st.sets(st.integers(0, len(records) - 1)))
    wanted = [records[number] for number in sorted(chosen)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "_BYTES_WORTH_A_SEEK", worth)
        assert list(read_at(path, [record.offset for record in wanted])) == wanted


def test_a_thousand_records_in_a_thousand_out(write_fasta, random_proteins):
    records = random_proteins(1000)
    path = write_fasta(records, "x.fasta.gz", width=7)
    assert [(record.header, record.sequence) for record in read_fasta(path)] == records


def test_a_record_larger_than_every_buffer(write_fasta):
    titin = "M" + "ACDEFGHIKL" * 300_000
    path = write_fasta([("small", "MK"), ("titin", titin), ("last", "MW")], width=80)
    assert [len(record.sequence) for record in read_fasta(path)] == [2, len(titin), 2]


def test_a_remote_file_is_read():
    import fsspec

    content = b">a x\nMK\n>b y\nMW\n"
    for name, stored in {"x.fasta": content, "x.fasta.gz": gzip.compress(content)}.items():
        with fsspec.open(f"memory://fasta/{name}", "wb") as file:
            file.write(stored)
        records = list(read_fasta(f"memory://fasta/{name}"))
        assert [record.sequence for record in records] == ["MK", "MW"]
        assert list(read_at(f"memory://fasta/{name}", [records[1].offset])) == records[1:]


BAD = {
    "empty": (b"", "empty, it holds no FASTA record"),
    "blank lines only": (b"\n\n", "empty, it holds no FASTA record"),
    "empty gzip": (gzip.compress(b""), "empty, it holds no FASTA record"),
    "no '>' first": (b"MKV\n>a\nMK\n", "does not start with '>'"),
    "no sequence": (b">a\nMK\n>b\n\n>c\nMK\n", "record 'b' at byte 6 has no sequence"),
    "no sequence at the end": (b">a\nMK\n>b", "record 'b' at byte 6 has no sequence"),
    "only a star": (b">a\n*\n", "record 'a' at byte 0 has no sequence"),
    "no id": (b">\nMK\n", "has no id"),
    "a digit": (b">a x y\nMK\nV1W\n", "record 'a x y' at byte 0 has '1' at residue 4"),
    "a gap": (b">a\nMK-V\n", "has '-' at residue 3"),
    "a star inside": (b">a\nMK*V\n", "has '*' at residue 3"),
    "not ASCII": (">a\nMÄ\n".encode(), "at residue 2"),
    "binary": (bytes(range(256)), "does not start with '>'"),
    "far behind blank lines": (b"\n" * 300 + b"MK\n>a\nMK\n", "does not start with '>'"),
    "many blank lines": (b" \n" * 300, "empty, it holds no FASTA record"),
    "an indented start": (b"\n >a\nMK\n>b\nMK\n", "does not start with '>'"),
    "two errors": (b">a\nMK\n>\nMK\n>c\n1\n", "record '' at byte 6 has no id"),
    "truncated gzip": (
        gzip.compress(b">a\n" + b"ACDEFGHIKLMNPQRSTVWY" * 99 + b"\n")[:-9],
        "the gzip stream is truncated or damaged",
    ),
    "gzip header only": (b"\x1f\x8b\x08", "the gzip stream is truncated or damaged"),
    "garbage behind gzip": (
        gzip.compress(b">a\nMK\n") + b"garbage",
        "the gzip stream is truncated or damaged",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line_that_names_file_and_record(tmp_path, monkeypatch, case):
    content, message = BAD[case]
    path = tmp_path / "bad.fasta"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_fasta(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    for block_bytes in (4, 100, 1 << 20):
        monkeypatch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(fasta_reading, "_SLACK", 1)
        with fasta_reading.BlockReader(path) as reader, pytest.raises(InputError) as ahead:
            read_through(reader)
        assert str(ahead.value) == str(caught.value)


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@pytest.mark.parametrize("block_bytes", [16, 90, 4096])
def test_the_longest_record_is_the_same_for_every_reader(
    tmp_path, monkeypatch, compression, block_bytes
):
    monkeypatch.setattr(fasta_buffers, "LONGEST_RECORD", 100)
    monkeypatch.setattr(fasta_reading, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(fasta_reading, "_SLACK", 1)
    path = tmp_path / "x.fasta"
    # The header line of each has 3 bytes.
    for longest in (97, 98, 300, 5000):
        content = b"\n\n>a\nMK\n>b\n" + b"M" * (longest - 1) + b"\n>c\nMK\n"
        path.write_bytes(COMPRESSIONS[compression](content))
        if longest == 97:
            assert len(list(read_fasta(path))) == 3
            with fasta_reading.BlockReader(path) as reader:
                assert len(read_through(reader)) == 3
            continue
        message = "record 'b' at byte 8 has more than 100 bytes"
        with pytest.raises(InputError, match=message):
            list(read_fasta(path))
        with (
            fasta_reading.BlockReader(path) as reader,
            pytest.raises(InputError, match=message),
        ):
            read_through(reader)


def test_what_is_no_fasta_is_not_shown(tmp_path):
    path = tmp_path / "x.fasta.bz2"
    path.write_bytes(bz2.compress(np.random.default_rng(0).bytes(100_000)) + b"\n>a\n\x1b[31m\n")
    for read in (lambda: list(read_fasta(path)), lambda: read_ahead(path)):
        with pytest.raises(InputError, match="does not start with '>'"):
            read()
    path.write_bytes(b">a\x1b[31m\nM1\n")
    with pytest.raises(InputError, match=r"record 'a\?\[31m' at byte 0 has '1'"):
        read_ahead(path)


def read_ahead(path):
    with fasta_reading.BlockReader(path) as reader:
        return read_through(reader)


def test_a_bgzip_file_cut_between_members_is_refused(tmp_path):
    path = tmp_path / "x.fasta.gz"
    content = bgzipped(b">a\nMK\n" * 50)
    path.write_bytes(content)
    assert len(list(read_fasta(path))) == 50
    path.write_bytes(content[: content.rindex(b"\x1f\x8b\x08\x04")])
    with pytest.raises(InputError, match="bgzip's end marker is missing"):
        list(read_fasta(path))


def test_a_zstd_file_may_start_with_a_frame_to_be_skipped(tmp_path):
    path = tmp_path / "x.fasta.zst"
    path.write_bytes(b"\x5a\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(b">a\nMK\n"))
    assert [record.sequence for record in read_fasta(path)] == ["MK"]


def test_a_flipped_bit_in_gzip_is_found(tmp_path):
    content = bytearray(gzip.compress(b">a\n" + b"ACDEFGHIKLMNPQRSTVWY" * 99 + b"\n"))
    content[-8] ^= 1
    path = tmp_path / "bad.fasta.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        list(read_fasta(path))


@given(st.binary(max_size=200))
@example(b">\xff\nMK")
@example(b"\x1f\x8b")
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fasta") / "x"
    path.write_bytes(content)
    try:
        records = list(read_fasta(path))
    except InputError:
        return
    assert all(re.fullmatch("[A-Z]+", record.sequence) for record in records)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_fasta(tmp_path / "missing.fasta"))
    with pytest.raises(InputError, match="is a directory"):
        list(read_fasta(tmp_path))


@pytest.mark.parametrize("name", ["x.fasta", "x.fasta.gz"])
@pytest.mark.parametrize("offset", [1, 3, 10_000])
def test_an_offset_at_no_record_is_refused(write_fasta, name, offset):
    path = write_fasta([("a>b", "MK"), ("c", "MK")], name)
    with pytest.raises(InputError, match=f"no record starts at byte {offset}"):
        list(read_at(path, [offset]))


def test_a_greater_sign_inside_a_header_starts_no_record(write_fasta):
    path = write_fasta([("a >b", "MK")])
    with pytest.raises(InputError, match="no record starts at byte 3"):
        list(read_at(path, [3]))


def test_seekable_is_what_is_local_and_plain(write_fasta):
    records = [("a", "MK")]
    assert fasta.is_seekable(write_fasta(records))
    assert not fasta.is_seekable(write_fasta(records, "x.fasta.gz"))
    assert storage.is_url("memory://x")
    assert not fasta.is_seekable("memory://x")
