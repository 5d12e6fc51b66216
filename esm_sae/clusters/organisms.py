"""The organism of a UniRef cluster's representative, by UniProt's organism codes."""

import os
import re

import polars as pl

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.headers import parse_header

SPECIES_LIST = {"code": pl.String, "taxid": pl.Int64, "name": pl.String}

# The usual form of a UniRef header, in which every "=" is that of a field: its parts are found by
# searching for plain text, in a column that is streamed. Others are left to parse_header.
_USUAL = "^[^ \\t=]+ [^=]* n=[0-9]{1,18} Tax=[^=]+ TaxID=[0-9]{1,18} RepID=[^ \\t=]+$"
_USUAL_SIZE = " n=([0-9]{1,18}) Tax="
_USUAL_REP_ID = " RepID=([^ \\t=]+)$"
_MAY_BE_UNIREF = "[ \\t]n=[0-9]"
_CODE = "_([A-Z0-9]+)$"
# As in 'HUMAN E    9606: N=Homo sapiens'.
_LISTED = re.compile(r"([A-Z0-9]+) +[A-Z] +([0-9]{1,18}): N=(.*\S)\s*")
_LOOKS_LISTED = re.compile(r"\S.*: N=")
_EXPECTED = "expected UniProt's speclist.txt"


def member_count(header: pl.Expr) -> pl.Expr:
    """Return the member count ``n=`` of UniRef headers; null of headers in another style."""
    return _field(header, _USUAL_SIZE, "size", pl.Int64())


def representative_code(header: pl.Expr) -> pl.Expr:
    """Return the organism code of the representative of UniRef headers.

    ``RepID=A0A5A9P0L4_9TELE`` gives ``9TELE``. Null where the representative has none (UniParc)
    or the header is in another style.
    """
    return _field(header, _USUAL_REP_ID, "rep_id", pl.String()).str.extract(_CODE)


def read_species_list(path: storage.PathLike) -> pl.DataFrame:
    """Read the organism codes of UniProt's ``speclist.txt``, of species and of groups.

    Codes that begin with 9 stand for a group of organisms, such as ``9TELE``.

    Returns:
        code, taxid, name.

    Raises:
        InputError: the file is not such a list, a line is garbled, or a code stands for two
            organisms.
    """
    try:
        lines = storage.read_bytes(path).decode().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{os.fspath(path)}: is not UTF-8 text; {_EXPECTED}") from None
    rows: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, 1):
        found = _LISTED.fullmatch(line)
        if found is None and _LOOKS_LISTED.match(line):
            raise InputError(
                f"{os.fspath(path)}: line {number} is not of the list's form ('{line[:60]}'); "
                f"{_EXPECTED}"
            )
        if found is None:
            continue
        code, organism = found[1], (int(found[2]), found[3])
        if rows.setdefault(code, organism) != organism:
            raise InputError(
                f"{os.fspath(path)}: line {number} has the code {code} a second time, for another "
                f"organism; {_EXPECTED}"
            )
    if not rows:
        raise InputError(f"{os.fspath(path)}: holds no organism code; {_EXPECTED}")
    listed = [(code, taxid, name) for code, (taxid, name) in rows.items()]
    return pl.DataFrame(listed, schema=SPECIES_LIST, orient="row")


def _field(header: pl.Expr, usual: str, name: str, kind: pl.DataType) -> pl.Expr:
    def parsed(headers: pl.Series) -> pl.Series:
        fields = [getattr(parse_header(text), name) if text else None for text in headers]
        return pl.Series(headers.name, fields, dtype=kind)

    is_usual = header.str.contains(_USUAL)
    is_other = header.str.contains(_MAY_BE_UNIREF) & ~is_usual
    found = pl.when(is_usual).then(header).str.extract(usual).cast(kind)
    other = pl.when(is_other).then(header)
    return pl.coalesce(found, other.map_batches(parsed, return_dtype=kind, is_elementwise=True))
