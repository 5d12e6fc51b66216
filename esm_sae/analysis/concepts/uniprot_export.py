"""Annotations from a tab-separated export of UniProtKB."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.compression import decompressed

Entry = tuple[str, int | None, int | None]

# A feature starts with its key and position; its qualifiers follow, '/note="..."' and others.
_FEATURE = re.compile(r'([A-Z][A-Z_]+) ([^\s;"]+)((?:; */[a-z_]+(?:="(?:[^"]|"")*")?)*)')
_POSITION = re.compile(r"(\d+)(?:\.\.(\d+))?")
_QUALIFIER = re.compile(r'/([a-z_]+)="((?:[^"]|"")*)"')
_ORDINAL = re.compile(r"\s+\d+$")
_GO_TERM = re.compile(r"\s*(.*?) \[(GO:\d{7})\](?:;|$)")

# What these say is of the record, not of the protein.
_OF_THE_RECORD = {"3D-structure", "Complete proteome", "Direct protein sequencing"} | {
    "Reference proteome"
}
_ONE_BOND = {"DISULFID", "CROSSLNK"}
# Columns of features by their name in an export, with the feature's key. The first say what they
# are of in a note, the others are one concept each, whatever their note.
_NOTED_FEATURES = {
    "Binding site": "BINDING",
    "Compositional bias": "COMPBIAS",
    "DNA binding": "DNA_BIND",
    "Domain [FT]": "DOMAIN",
    "Glycosylation": "CARBOHYD",
    "Lipidation": "LIPID",
    "Modified residue": "MOD_RES",
    "Motif": "MOTIF",
    "Region": "REGION",
    "Repeat": "REPEAT",
    "Topological domain": "TOPO_DOM",
    "Zinc finger": "ZN_FING",
}
_PLAIN_FEATURES = {
    "Active site": "ACT_SITE",
    "Beta strand": "STRAND",
    "Coiled coil": "COILED",
    "Cross-link": "CROSSLNK",
    "Disulfide bond": "DISULFID",
    "Helix": "HELIX",
    "Intramembrane": "INTRAMEM",
    "Propeptide": "PROPEP",
    "Signal peptide": "SIGNAL",
    "Site": "SITE",
    "Transit peptide": "TRANSIT",
    "Transmembrane": "TRANSMEM",
    "Turn": "TURN",
}


@dataclass
class ExportCounts:
    """What of an export was used and what was not.

    Attributes:
        entries: rows of the export.
        entries_used: those of wanted accessions.
        entries_repeated: rows of an accession that had one before; they are passed over.
        features_unplaced: features whose start or end is not known, or lies in another isoform.
        columns_used: names of the columns that concepts come from.
        columns_unused: names of the others.
    """

    entries: int = 0
    entries_used: int = 0
    entries_repeated: int = 0
    features_unplaced: int = 0
    columns_used: list[str] = field(default_factory=list)
    columns_unused: list[str] = field(default_factory=list)


def read_export(
    source: storage.PathLike, wanted: Iterable[str], counts: ExportCounts
) -> Iterator[tuple[str, list[Entry]]]:
    """Read what an export of UniProtKB says of the wanted accessions, one entry at a time.

    The export is what the site's 'Download' gives as TSV: a line of column names, then one line
    per entry, plain or compressed by gzip or zstd. Read are Keywords, EC number (every level of
    the hierarchy is a concept), the Gene Ontology columns, Pfam, InterPro, and features with
    positions in UniProt's own form, such as ``DOMAIN 5..98; /note="SH2"; /evidence="..."``. Of a
    disulfide bond or a cross-link only the two residues that it joins count.

    Args:
        source: the file or URL.
        wanted: accessions.
        counts: counted up as entries are read.

    Yields:
        Accession and its concepts, each with start and end, None where it has no position.

    Raises:
        InputError: the file is damaged or no such export (the line is named), or no column of it
            holds annotations.
    """
    wanted = set(wanted)
    seen: set[str] = set()
    with storage.open_binary(source) as raw, decompressed(raw, source) as file:
        lines = _lines(file, source)
        names = next(lines, "").split("\t")
        readers = _readers(source, names, counts)
        at = names.index("Entry")
        for number, line in enumerate(lines, 2):
            cells = line.split("\t")
            if len(cells) != len(names):
                raise InputError(
                    f"{os.fspath(source)}: line {number} has {len(cells)} columns, not "
                    f"{len(names)}; export it as TSV again"
                )
            counts.entries += 1
            accession = cells[at]
            if accession not in wanted:
                continue
            if accession in seen:
                counts.entries_repeated += 1
                continue
            seen.add(accession)
            counts.entries_used += 1
            entries = (e for column, read in readers for e in read(cells[column], counts))
            yield accession, list(dict.fromkeys(entries))


def _lines(file: Iterable[bytes], source: storage.PathLike) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{os.fspath(source)}: line {number} is not text; give UniProt's TSV export, "
                "plain or compressed by gzip or zstd"
            ) from None
        if text.strip():
            yield text.rstrip("\r\n")


Reader = Callable[[str, ExportCounts], Iterator[Entry]]


def _readers(
    source: storage.PathLike, names: list[str], counts: ExportCounts
) -> list[tuple[int, Reader]]:
    if "Entry" not in names:
        raise InputError(
            f"{os.fspath(source)}: the first line has no column 'Entry'; export the proteins from "
            "UniProtKB as TSV, with their accessions in that column"
        )
    # With the terms' names in another column, the bare numbers would be concepts a second time.
    named = any(name.startswith("Gene Ontology (") for name in names)
    left_out = {"Gene Ontology IDs"} if named else set()
    readers = [
        (column, reader)
        for column, name in enumerate(names)
        if name not in left_out and (reader := _reader_of(name))
    ]
    counts.columns_used = [names[column] for column, _ in readers]
    counts.columns_unused = [n for n in names if n not in {"Entry", *counts.columns_used}]
    if not readers:
        raise InputError(
            f"{os.fspath(source)}: no column holds annotations; export Keywords, EC number, Gene "
            "Ontology, Pfam, InterPro or features such as 'Domain [FT]' too"
        )
    return readers


def _reader_of(name: str) -> Reader | None:
    if name in _NOTED_FEATURES or name in _PLAIN_FEATURES:
        return lambda cell, counts: _features(name, cell, counts)
    if name.startswith("Gene Ontology ("):
        return lambda cell, _: ((f"{go} {term}", None, None) for term, go in _GO_TERM.findall(cell))
    plain = {
        "Keywords": lambda text: [] if text in _OF_THE_RECORD else [f"keyword: {text}"],
        "EC number": _enzyme_classes,
        "Gene Ontology IDs": lambda text: [text],
        "Pfam": lambda text: [f"Pfam {text}"],
        "InterPro": lambda text: [f"InterPro {text}"],
    }.get(name)
    if plain is None:
        return None
    return lambda cell, _: (
        (concept, None, None)
        for part in cell.split(";")
        if part.strip()
        for concept in plain(part.strip())
    )


def _enzyme_classes(text: str) -> list[str]:
    known = text.split(".")[: 4 if "-" not in text else text.split(".").index("-")]
    return [
        "EC " + ".".join([*known[:level], *"-" * (4 - level)]) for level in range(1, len(known) + 1)
    ]


def _features(name: str, cell: str, counts: ExportCounts) -> Iterator[Entry]:
    key = _NOTED_FEATURES.get(name) or _PLAIN_FEATURES[name]
    for found, where, qualifiers in _FEATURE.findall(cell):
        if found != key:
            continue
        position = _POSITION.fullmatch(where)
        start = int(position[1]) if position else 0
        end = int(position[2] or start) if position else 0
        if not 1 <= start <= end:
            counts.features_unplaced += 1
            continue
        concept = _feature_concept(name, dict(_QUALIFIER.findall(qualifiers)))
        if key in _ONE_BOND:
            yield concept, start, start
            yield concept, end, end
        else:
            yield concept, start, end


def _feature_concept(name: str, qualifiers: dict[str, str]) -> str:
    kind = name.removesuffix(" [FT]").lower()
    if name in _PLAIN_FEATURES:
        return kind
    note = qualifiers.get("ligand") or qualifiers.get("note", "")
    # 'Ig-like 2; truncated' is an Ig-like domain.
    note = _ORDINAL.sub("", note.split(";")[0].strip()).replace('""', '"')
    return f"{kind}: {note}" if note else kind
