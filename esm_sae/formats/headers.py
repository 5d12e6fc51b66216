"""What FASTA headers say, in the styles of UniRef and UniProtKB.

``parse_header`` reads one header, ``parse_headers`` a column of them, by the same rules. Both take
time linear in the header's length, whatever is in it.
"""

import re
from typing import NamedTuple

import polars as pl

UNIREF, UNIPROTKB, OTHER = "UniRef", "UniProtKB", "other"

# Numbers of up to 18 digits fit the 64 bits of a column.
_NUMBER = "[0-9]{1,18}"
# A UniRef header: what follows the cluster's size is a field or nothing. That tells it from an
# "n=4" within a name.
_UNIREF = re.compile(
    rf"(?:^|[ \t])n=({_NUMBER})(?:[ \t]+((?:Tax|TaxID|RepID)=.*)|[ \t]*\Z)", re.DOTALL
)
_UNIREF_FIELD = re.compile(r"(?:^|[ \t])(Tax|TaxID|RepID)=")
_UNIPROT_FIELD = re.compile(r"(?:^|[ \t])(OS|OX|GN|PE|SV|Split)=")
# The form of nearly every UniRef header, in which every "=" is that of a field.
_USUAL = rf"^[^ \t=]+ [^=]* n={_NUMBER} Tax=[^=]+ TaxID={_NUMBER} RepID=[^ \t=]+$"
_UNIREF_ID = re.compile(r"UniRef(?:50|90|100)_(.+)", re.DOTALL)
_UNIPROT_ID = re.compile(r"(?:sp|tr)\|([^|]+)\|.*", re.DOTALL)


class Header(NamedTuple):
    """What a header says.

    Attributes:
        sequence_id: the first word.
        accession: the accession within a UniRef or UniProtKB id, else None.
        name: the protein's name; empty where there is none.
        taxon: name of the taxon, None where the header names none.
        taxid: NCBI taxonomy id, None where the header gives none.
        size: number of members of a UniRef cluster (``n=``), else None.
        rep_id: representative of a UniRef cluster (``RepID=``), else None.
        style: ``UniRef``, ``UniProtKB`` or ``other``: the form in which the fields were found;
            of an ``other`` header only id, accession and name are known.
    """

    sequence_id: str
    accession: str | None
    name: str
    taxon: str | None
    taxid: int | None
    size: int | None
    rep_id: str | None
    style: str


HEADER_SCHEMA = {
    "sequence_id": pl.String,
    "accession": pl.String,
    "name": pl.String,
    "taxon": pl.String,
    "taxid": pl.Int64,
    "size": pl.Int64,
    "rep_id": pl.String,
    "style": pl.String,
}


def parse_header(header: str) -> Header:
    """Parse a header in the style of UniRef or UniProtKB; others give an id and a name.

    Words are separated by spaces and tabs. A field that occurs twice counts once, the first time.

    >>> parse_header("UniRef50_P1 Kinase n=2 Tax=Homo sapiens TaxID=9606 RepID=K_HUMAN").taxid
    9606
    """
    sequence_id, rest = _first_word(header)
    uniref = _UNIREF.search(rest)
    if uniref:
        fields = _fields(uniref[2] or "", _UNIREF_FIELD)
        name, size, rep_id = rest[: uniref.start()], int(uniref[1]), _word(fields.get("RepID"))
        taxon, taxid, style = fields.get("Tax"), fields.get("TaxID"), UNIREF
    else:
        first = _UNIPROT_FIELD.search(rest)
        fields = _fields(rest, _UNIPROT_FIELD)
        name, size, rep_id = rest[: first.start()] if first else rest, None, None
        taxon, taxid = fields.get("OS"), fields.get("OX")
        style = UNIPROTKB if first else OTHER
    return Header(
        sequence_id,
        _accession(sequence_id),
        name.strip(" \t"),
        taxon or None,
        int(taxid) if taxid and re.fullmatch(_NUMBER, taxid) else None,
        size,
        rep_id,
        style,
    )


def parse_headers(headers: pl.Series) -> pl.LazyFrame:
    """Parse many headers at once, by the rules of ``parse_header``.

    Returns:
        One row per header, in order, with the fields of ``Header`` as columns; only those that
        are selected are computed.
    """
    frame = pl.DataFrame({"header": headers.cast(pl.String)}).with_row_index()
    is_usual = frame["header"].str.contains(_USUAL)
    usual = frame.lazy().filter(is_usual).select("index", *_usual_fields(pl.col("header")))
    if is_usual.all():
        return usual.drop("index")
    others = frame.filter(~is_usual)
    parsed = pl.DataFrame(
        [parse_header(header) for header in others["header"]], schema=HEADER_SCHEMA, orient="row"
    )
    parsed.insert_column(0, others["index"])
    return pl.concat([usual, parsed.lazy()]).sort("index").drop("index")


def _usual_fields(header: pl.Expr) -> list[pl.Expr]:
    """Take a header of the form ``_USUAL`` apart; its only ``=`` are those of its fields."""
    parts = header.str.split_exact("=", 4).struct
    start = parts.field("field_0").str.strip_suffix(" n").str.splitn(" ", 2).struct
    identifier = start.field("field_0")
    taxon = parts.field("field_2").str.strip_suffix(" TaxID").str.strip_chars(" \t")
    return [
        identifier.alias("sequence_id"),
        _accessions(identifier).alias("accession"),
        start.field("field_1").str.strip_chars(" \t").alias("name"),
        pl.when(taxon != "").then(taxon).alias("taxon"),
        parts.field("field_3").str.strip_suffix(" RepID").cast(pl.Int64).alias("taxid"),
        parts.field("field_1").str.strip_suffix(" Tax").cast(pl.Int64).alias("size"),
        parts.field("field_4").alias("rep_id"),
        pl.lit(UNIREF).alias("style"),
    ]


def _accessions(identifier: pl.Expr) -> pl.Expr:
    return pl.coalesce(
        identifier.str.extract(f"(?s)^{_UNIREF_ID.pattern}$"),
        identifier.str.extract(f"(?s)^{_UNIPROT_ID.pattern}$"),
    )


def _first_word(header: str) -> tuple[str, str]:
    words = re.split(r"[ \t]", header.strip(" \t"), maxsplit=1)
    return words[0], words[1].strip(" \t") if len(words) == 2 else ""


def _fields(text: str, key: re.Pattern[str]) -> dict[str, str]:
    parts = key.split(text)
    fields: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        fields.setdefault(name, value.strip(" \t"))
    return fields


def _accession(sequence_id: str) -> str | None:
    found = _UNIREF_ID.fullmatch(sequence_id) or _UNIPROT_ID.fullmatch(sequence_id)
    return found[1] if found else None


def _word(value: str | None) -> str | None:
    return value if value and not re.search(r"[ \t]", value) else None
