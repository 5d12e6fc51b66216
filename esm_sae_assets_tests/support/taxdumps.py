"""A small taxdump: its files, and variants of them."""

# taxid, parent, rank, scientific name; as NCBI has them since 2025.
NODES = [
    (1, 1, "no rank", "root"),
    (131567, 1, "cellular root", "cellular organisms"),
    (10239, 1, "acellular root", "Viruses"),
    (2, 131567, "domain", "Bacteria"),
    (2759, 131567, "domain", "Eukaryota"),
    (1224, 2, "phylum", "Pseudomonadota"),
    (543, 1224, "family", "Enterobacteriaceae"),
    (561, 543, "genus", "Escherichia"),
    (562, 561, "species", "Escherichia coli"),
    (83333, 562, "strain", "Escherichia coli K-12"),
    (1386, 2, "genus", "Bacillus"),
    (55087, 2759, "genus", "Bacillus"),
    (7711, 2759, "phylum", "Chordata"),
    (9605, 7711, "genus", "Homo"),
    (9606, 9605, "species", "Homo sapiens"),
    (77133, 2, "species", 'uncultured "odd" bacterium\'s'),
    (11676, 10239, "species", "Human immunodeficiency virus 1"),
]
OTHER_NAMES = [
    (1224, "Proteobacteria", "synonym"),
    (9606, "human", "genbank common name"),
    (9606, "Homo sapiens Linnaeus, 1758", "authority"),
    (11676, "Human immunodeficiency virus type 1", "equivalent name"),
    (9605, "Shared", "synonym"),
    (561, "Shared", "synonym"),
]
MERGED = [(1000, 562), (1001, 9606), (1002, 5)]
DELETED = [2000, 2001]


def line(*fields):
    """Return a line of a .dmp file."""
    return "\t|\t".join(map(str, fields)) + "\t|\n"


def dump(nodes=NODES):
    """Return the files of a taxdump by name."""
    names = [line(taxid, name, "", "scientific name") for taxid, _, _, name in nodes]
    names += [line(taxid, name, "", kind) for taxid, name, kind in OTHER_NAMES]
    return {
        "nodes.dmp": "".join(line(*node[:3], "", 0, 1, 11, 1, 0) for node in nodes),
        "names.dmp": "".join(names),
        "merged.dmp": "".join(line(*pair) for pair in MERGED),
        "delnodes.dmp": "".join(line(taxid) for taxid in DELETED),
    }


def write_folder(path, files):
    """Write the files into a folder."""
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def without(name):
    """Return the files but one."""
    return {other: text for other, text in dump().items() if other != name}


def changed(name, old, new):
    """Return the files with a text of one replaced where it first stands."""
    files = dump()
    assert old in files[name]
    return files | {name: files[name].replace(old, new, 1)}
