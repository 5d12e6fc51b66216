import gzip
import io
import random
import re
import tarfile
import zipfile

import polars as pl
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.clusters.taxon_names import find_names
from esm_sae.clusters.taxonomy import RANKS, read_taxonomy
from esm_sae.errors import InputError
from taxdumps import NODES, changed, dump, without, write_folder


def tar_bytes(files, prefix=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in {"citations.dmp": "x", **files, "readme.txt": "y"}.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def zip_bytes(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def with_password(content):
    """Return a zip archive that says that its files are encrypted."""
    flags = [match.start() + 8 for match in re.finditer(b"PK\x01\x02", content)]
    changed_content = bytearray(content)
    for place in flags:
        changed_content[place] |= 1
    return bytes(changed_content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("taxonomy") / "taxdump", dump())


@pytest.fixture(scope="module")
def taxonomy(folder):
    return read_taxonomy(folder)


def current(taxonomy, taxids):
    return taxonomy.current(pl.Series(taxids, dtype=pl.Int64)).rows()


def lifted(taxonomy, taxids, rank):
    return taxonomy.lift(pl.Series(taxids, dtype=pl.Int64), rank).rows()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("taxdump.tar", tar_bytes(dump())),
        ("taxdump.tar.gz", gzip.compress(tar_bytes(dump(), "./"))),
        ("new_taxdump.tar.zst", zstd.compress(tar_bytes(dump(), "taxdump/"))),
        ("taxdmp.zip", zip_bytes(dump())),
        ("no name that says it", gzip.compress(tar_bytes(dump()))),
    ],
)
def test_every_form_of_a_taxdump_gives_the_same_taxonomy(tmp_path, folder, taxonomy, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, str(path), f"file://{path}", f"file://{folder}"):
        read = read_taxonomy(source)
        assert read.taxids.tolist() == taxonomy.taxids.tolist()
        assert read.parents.tolist() == taxonomy.parents.tolist()
        assert read.ranks.tolist() == taxonomy.ranks.tolist()
        assert read.scientific.sort("taxid").equals(taxonomy.scientific.sort("taxid"))
        assert read.synonyms.equals(taxonomy.synonyms)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_taxids_are_brought_up_to_date(taxonomy):
    # 1002 was merged into a TaxID that is no node either.
    assert current(taxonomy, [562, 1000, 1002, 2000, 424242, None, 10**18 - 1]) == [
        (562, "current"),
        (562, "merged"),
        (None, "unknown"),
        (None, "deleted"),
        (None, "unknown"),
        (None, "unknown"),
        (None, "unknown"),
    ]
    assert current(taxonomy, []) == []


def test_taxa_are_lifted_to_a_rank(taxonomy):
    taxids = [83333, 562, 561, 543, 77133, 1]
    assert lifted(taxonomy, taxids, "genus") == [
        (561, "lifted"),
        (561, "lifted"),
        (561, "lifted"),
        (None, "above_rank"),
        # A species, of which the lineage has no genus.
        (None, "rank_missing"),
        (None, "above_rank"),
    ]
    assert lifted(taxonomy, [], "genus") == []


def test_superkingdom_means_domains_and_viruses_by_their_new_names_and_their_old(tmp_path):
    old = [
        (taxid, parent, "superkingdom" if rank in ("domain", "acellular root") else rank, name)
        for taxid, parent, rank, name in NODES
    ]
    for nodes in (NODES, old):
        taxonomy = read_taxonomy(write_folder(tmp_path / "taxdump", dump(nodes)))
        assert lifted(taxonomy, [83333, 9606, 11676, 10239, 131567], "superkingdom") == [
            (2, "lifted"),
            (2759, "lifted"),
            (10239, "lifted"),
            (10239, "lifted"),
            (None, "above_rank"),
        ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 60))
def test_lifting_equals_walking_up_the_tree(tmp_path_factory, seed, size):
    generator = random.Random(seed)
    taxids = generator.sample(range(1, 2**33), size)
    ranks = [*RANKS, "no rank", "clade"]
    parent = {taxid: generator.choice(taxids[: place + 1]) for place, taxid in enumerate(taxids)}
    rank_of = {taxid: generator.choice(ranks) for taxid in taxids}
    nodes = [(taxid, parent[taxid], rank_of[taxid], f"T{taxid}") for taxid in taxids]
    generator.shuffle(nodes)
    taxonomy = read_taxonomy(write_folder(tmp_path_factory.mktemp("tree"), dump(nodes)))
    for wanted in RANKS:
        for taxid, found in zip(taxids, lifted(taxonomy, taxids, wanted), strict=True):
            at, is_below = taxid, False
            while rank_of[at] != wanted and parent[at] != at:
                is_below |= rank_of[at] in RANKS[RANKS.index(wanted) :]
                at = parent[at]
            is_below |= rank_of[at] in RANKS[RANKS.index(wanted) :]
            if rank_of[at] == wanted:
                assert found == (at, "lifted")
            else:
                assert found == (None, "rank_missing" if is_below else "above_rank")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Homo sapiens", (9606, "scientific_name")),
        ("Human immunodeficiency virus type 1", (11676, "synonym")),
        ("Proteobacteria", (1224, "synonym")),
        ('uncultured "odd" bacterium\'s', (77133, "scientific_name")),
        ("Escherichia coli (strain K12)", (562, "without_brackets")),
        ("Homo sapiens (Human)", (9606, "without_brackets")),
        (
            "Human immunodeficiency virus type 1 (isolate X (Y)) (HIV-1)",
            (11676, "without_brackets"),
        ),
        ("Bacillus", (None, "ambiguous")),
        ("Bacillus (strain X)", (None, "ambiguous")),
        ("Shared", (None, "ambiguous")),
        ("human", (None, "not_found")),
        ("homo sapiens", (None, "not_found")),
        ("Nobody (strain Homo sapiens)", (None, "not_found")),
        ("(Homo sapiens)", (None, "not_found")),
        ("Homo sapiens (Human", (None, "not_found")),
        ("Homo sapiens" + " (x)" * 4, (None, "not_found")),
        ("(" * 300, (None, "not_found")),
        ("", (None, "not_found")),
    ],
)
def test_names_are_looked_up_and_only_unique_ones_found(taxonomy, name, found):
    assert find_names(pl.Series(["Homo", name]), taxonomy).rows() == [
        ("Homo", 9605, "scientific_name"),
        (name, *found),
    ]


IN_NODES = r"nodes\.dmp, line"
NO_LINE = "not of the form"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (without("nodes.dmp"), r"holds no nodes\.dmp"),
        (without("names.dmp"), r"holds no names\.dmp"),
        (dump() | {"names.dmp": ""}, r"holds no names\.dmp, or an empty one"),
        (
            changed("nodes.dmp", "561\t|\t543", "561\t|\t9"),
            rf"{IN_NODES} 8: TaxID 561 has the parent 9",
        ),
        (
            changed("nodes.dmp", "561\t|\t543", "561\t|\t83333"),
            rf"{IN_NODES} 8: TaxID 561 is its own anc",
        ),
        (
            changed("nodes.dmp", "1\t|\t1\t", "1\t|\t2\t"),
            rf"{IN_NODES} 1: TaxID 1 is its own ancestor",
        ),
        (
            changed("nodes.dmp", "561\t|\t543", "543\t|\t543"),
            rf"{IN_NODES} 8: TaxID 543 stands a second",
        ),
        (changed("nodes.dmp", "561\t|\t543", "561\t|\tx"), rf"{IN_NODES} 8: {NO_LINE} .*'561"),
        (changed("nodes.dmp", "561\t|\t543", "\n561\t|\t543"), rf"{IN_NODES} 8: {NO_LINE}"),
        (changed("nodes.dmp", "561\t|\t543", "561,543"), rf"{IN_NODES} 8: {NO_LINE}"),
        (changed("nodes.dmp", "1\t|\t1\t", "x\n1\t|\t1\t"), rf"{IN_NODES} 1: {NO_LINE}"),
        (
            dump() | {"nodes.dmp": "version https://git-lfs.github.com/spec/v1\n"},
            rf"{IN_NODES} 1: not",
        ),
        (changed("names.dmp", "\t|\tsynonym\t|", ""), rf"names\.dmp, line 18: {NO_LINE}"),
        (changed("merged.dmp", "1001\t|", "1001"), rf"merged\.dmp, line 2: {NO_LINE}"),
        (changed("delnodes.dmp", "2001", "-2001"), rf"delnodes\.dmp, line 2: {NO_LINE}"),
        (changed("delnodes.dmp", "2001", "20x1"), rf"delnodes\.dmp, line 2: {NO_LINE}"),
        (
            dump() | {"names.dmp": dump()["names.dmp"].encode() + b"\xe4\n"},
            r"names\.dmp, line 24: is not UTF-8",
        ),
    ],
)
def test_a_taxdump_that_is_none_is_refused_by_file_and_line(tmp_path, files, message):
    with pytest.raises(InputError, match=message) as caught:
        read_taxonomy(write_folder(tmp_path / "taxdump", files))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no taxdump archive, or is truncated|holds no"),
        (b"no archive at all", "is no taxdump archive"),
        (tar_bytes(without("nodes.dmp")), r"holds no nodes\.dmp"),
        (tar_bytes(dump())[:2000], "truncated or damaged|holds no"),
        (gzip.compress(tar_bytes(dump()))[:-200], "truncated or damaged"),
        (gzip.compress(b"no archive"), "is no taxdump archive"),
        (zip_bytes(dump())[:-30], "truncated or damaged"),
        (with_password(zip_bytes(dump())), "password"),
        (zip_bytes(without("names.dmp")), r"holds no names\.dmp"),
        (zip_bytes(dump() | {f"other/{name}": text for name, text in dump().items()}), "two files"),
    ],
)
def test_an_archive_that_is_none_or_damaged_is_refused(tmp_path, content, message):
    path = tmp_path / "taxdump.tar.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_taxonomy(path)
