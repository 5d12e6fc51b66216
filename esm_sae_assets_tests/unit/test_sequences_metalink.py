import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError
from esm_sae.sequences.checksum import Checksum, parse_checksum
from esm_sae.sequences.metalink import LARGEST_METALINK, Metalink, parse_metalink

MD5, SHA1, SHA256, SHA512 = "0a" * 16, "1b" * 20, "2c" * 32, "3d" * 64

VERSION_3 = f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="static">
  <identity>UniRef50</identity>
  <version> 2026_05 </version>
  <files>
    <file name="uniref50.xml.gz">
      <version>1</version><size>7</size>
      <verification><hash type="md5">{"f" * 32}</hash></verification>
    </file>
    <file name="uniref50.fasta.gz">
      <size>123</size>
      <verification>
        <hash type="md5">{MD5}</hash>
        <hash type="sha1">{SHA1}</hash>
        <hash type="ed2k">00</hash>
        <pieces length="262144" type="sha256"><hash piece="0">{SHA256}</hash></pieces>
      </verification>
      <resources><url type="ftp" location="us">ftp://ftp.uniprot.org/x</url></resources>
    </file>
  </files>
</metalink>"""

VERSION_4 = f"""<metalink xmlns="urn:ietf:params:xml:ns:metalink" xmlns:o="urn:other">
  <published>2026-05-15T12:23:23Z</published>
  <file name="uniref50.fasta.gz">
    <version>2026_05</version>
    <size>123</size>
    <hash type="sha-256">{SHA256.upper()}</hash>
    <hash type="md5">{MD5}</hash>
    <o:size>9</o:size>
    <pieces length="1" type="sha-512"><hash>{SHA512}</hash></pieces>
    <url>https://ftp.uniprot.org/x</url>
  </file>
</metalink>"""


def parse(text, name="uniref50.fasta.gz"):
    return parse_metalink(text if isinstance(text, bytes) else text.encode(), name, "a.metalink")


def test_version_3_as_uniprot_writes_it():
    assert parse(VERSION_3) == Metalink("2026_05", Checksum("sha1", SHA1), 123)


def test_version_4_of_rfc_5854():
    assert parse(VERSION_4) == Metalink("2026_05", Checksum("sha256", SHA256), 123)


@pytest.mark.parametrize("text", [VERSION_3, VERSION_4])
def test_a_file_that_is_not_listed_has_no_checksum(text):
    release = "2026_05" if text is VERSION_3 else None
    assert parse(text, "uniref90.fasta.gz") == Metalink(release, None, None)


def test_other_encodings_of_the_text_are_read():
    text = VERSION_4.replace("2026_05", "2026_ö")
    content = f'<?xml version="1.0" encoding="UTF-16"?>{text}'.encode("utf-16")
    assert parse(content).release == "2026_ö"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (MD5, MD5[:-1], "is no md5 hash of uniref50"),
        ("<size>123</size>", "<size>-1</size>", "the size of uniref50.fasta.gz is '-1'"),
        ("<size>123</size>", f"<size>{'9' * 5000}</size>", "expected a number"),
        ("<size>123</size>", "<size></size>", "the size of uniref50.fasta.gz is ''"),
        ("<size>123</size>", "<size>1</size><size>2</size>", "more than one size or hash"),
        (
            f'<hash type="md5">{MD5}</hash>',
            f'<hash type="sha512">{SHA512}</hash><hash type="sha-512">{"0" * 128}</hash>',
            "more than one size or hash",
        ),
        ("http://www.metalinker.org/", "http://example.org/", "root element"),
        ("urn:ietf:params:xml:ns:metalink", "", "root element"),
        ("</metalink>", "", "malformed"),
        ("<metalink", "<!DOCTYPE metalink SYSTEM 'file:///etc/passwd'><metalink", "DOCTYPE"),
        ("<metalink", '<!DOCTYPE m [<!ENTITY a "b">]><metalink', "DOCTYPE"),
        ("</size>", "&a;</size>", "malformed"),
        ("</size>", "\0</size>", "malformed"),
    ],
)
@pytest.mark.parametrize("text", [VERSION_3, VERSION_4])
def test_what_cannot_be_used_is_refused(text, old, new, message):
    if old not in text:
        return
    with pytest.raises(InputError, match=f"^a.metalink: .*{message}"):
        parse(text.replace(old, new))


def test_a_doctype_is_refused_before_its_entities_are_read():
    with pytest.raises(InputError, match="DOCTYPE"):
        parse('<!DOCTYPE m [<!ENTITY a "&a;&a;"> this is not even XML')


@pytest.mark.parametrize("encoding", ["nonsense", "utf-7", "shift_jis", "rot13", "utf-32"])
def test_unknown_encodings_are_refused(encoding):
    with pytest.raises(InputError, match="malformed"):
        parse(f'<?xml version="1.0" encoding="{encoding}"?>{VERSION_4}')


def test_too_large_a_file_is_refused():
    with pytest.raises(InputError, match="has more than 16,777,216 bytes"):
        parse(b" " * (LARGEST_METALINK + 1))


def test_deep_nesting_does_no_harm():
    deep = "<a>" * 100_000 + "</a>" * 100_000
    assert parse(VERSION_4.replace("<published>", f"{deep}<published>")).size == 123


@given(st.data())
def test_any_damage_is_an_error_or_still_a_metalink(data):
    content = bytearray((VERSION_3 if data.draw(st.booleans()) else VERSION_4).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=8))
    try:
        metalink = parse(bytes(content))
    except InputError as error:
        assert str(error).startswith("a.metalink: ")  # noqa: PT017
    else:
        assert metalink.size is None or metalink.size >= 0


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_parser(content):
    with pytest.raises(InputError, match=r"^a\.metalink: "):
        parse(content)


@pytest.mark.parametrize(
    ("text", "checksum"),
    [
        (f"md5:{MD5}", Checksum("md5", MD5)),
        (f"SHA-256: {SHA256.upper()} ", Checksum("sha256", SHA256)),
        (f"sha512:{SHA512}", Checksum("sha512", SHA512)),
    ],
)
def test_checksums_are_read_in_common_spellings(text, checksum):
    assert parse_checksum(text) == checksum
    assert parse_checksum(str(checksum)) == checksum
