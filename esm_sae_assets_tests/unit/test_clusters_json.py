import io
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esm_sae.errors import InputError
from esm_sae.formats import embedded_clusters, json_lists
from esm_sae.formats.clusters_json import read_sequences, write_sequences
from esm_sae.formats.embedded_clusters import (
    EmbeddedClusters,
    is_embedded_table,
    read_embedded_json,
    read_embedded_table,
    write_embedded_json,
    write_embedded_table,
)
from esm_sae.formats.json_lists import read_entries

TEXT = st.text(max_size=12)
VECTORS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda value: st.lists(value, max_size=4) | st.dictionaries(TEXT, value, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=[1, 3, 1 << 20])
def chunk_bytes(request, monkeypatch):
    """Read files in parts of so many bytes."""
    monkeypatch.setattr(json_lists, "_CHUNK_BYTES", request.param)
    return request.param


def write(folder, content):
    path = folder / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def members(clusters):
    return [
        (name, number, sequence, header)
        for name, pairs in clusters.items()
        for number, (sequence, header) in enumerate(pairs, start=1)
    ]


@given(st.dictionaries(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=4), min_size=1, max_size=5))
def test_sequences_round_trip_and_are_what_json_writes(tmp_path_factory, clusters):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_sequences(path, clusters)
    assert path.read_text() == json.dumps(clusters, ensure_ascii=False) + "\n"
    assert list(read_sequences(path)) == members(clusters)


@settings(max_examples=40, deadline=None)
@given(
    content=st.dictionaries(TEXT, st.lists(JSON, max_size=4), min_size=1, max_size=4),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 2]),
    size=st.sampled_from([1, 7, 1 << 20]),
)
def test_entries_are_those_that_json_loads_however_the_file_is_read(
    tmp_path_factory, content, ensure_ascii, indent, size
):
    text = json.dumps(content, ensure_ascii=ensure_ascii, indent=indent)
    path = write(tmp_path_factory.mktemp("json"), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "_CHUNK_BYTES", size)
        assert list(read_entries(path)) == [
            (name, number, entry)
            for name, entries in content.items()
            for number, entry in enumerate(entries, start=1)
        ]


@settings(max_examples=40, deadline=None)
@given(VECTORS, st.data())
def test_embeddings_round_trip_to_the_last_bit(tmp_path_factory, vectors, data):
    folder = tmp_path_factory.mktemp("json")
    count = len(vectors)
    # Proteins of a taxon stand together in the file.
    taxa = sorted(data.draw(st.lists(TEXT, min_size=count, max_size=count)))
    sequences, headers = [f"M{n}" for n in range(count)], [f"h{n}" for n in range(count)]
    clusters = EmbeddedClusters(taxa, sequences, headers, vectors)
    write_embedded_json(folder / "x.json", clusters)
    write_embedded_table(folder / "x.parquet", clusters)
    for found in (
        read_embedded_json(folder / "x.json"),
        read_embedded_table(folder / "x.parquet"),
    ):
        assert (found.taxa, found.sequences, found.headers) == (taxa, sequences, headers)
        assert found.embeddings.dtype == np.float32
        np.testing.assert_array_equal(found.embeddings.view(np.uint32), vectors.view(np.uint32))


def test_the_files_have_the_shapes_of_the_original(tmp_path):
    write_sequences(tmp_path / "s.json", {"1": [("MK", "a b")]})
    assert json.loads((tmp_path / "s.json").read_text()) == {"1": [["MK", "a b"]]}
    embedded = EmbeddedClusters(["Homo"], ["MK"], ["a b"], np.array([[0.1, 2]], np.float32))
    write_embedded_json(tmp_path / "e.json", embedded)
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "Homo": [{"sequence": "MK", "header": "a b", "embedding": [0.1, 2.0]}]
    }
    write_embedded_table(tmp_path / "e.parquet", embedded)
    table = pl.read_parquet(tmp_path / "e.parquet")
    assert table.columns == ["taxon", "sequence_id", "header", "sequence", "embedding"]
    assert table.schema["embedding"] == pl.Array(pl.Float32, 2)
    assert table["sequence_id"].to_list() == ["a"]


def test_long_taxa_are_written_in_parts(tmp_path, monkeypatch):
    taxa = ["A"] * 7 + ["B"] + ["C"] * 3
    names = [f"P{number}" for number in range(len(taxa))]
    vectors = np.random.default_rng(0).standard_normal((len(taxa), 3)).astype(np.float32)
    clusters = EmbeddedClusters(taxa, names, names, vectors)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, rows in ((whole, 4096), (parts, 2)):
        monkeypatch.setattr(embedded_clusters, "_ROWS_AT_ONCE", rows)
        folder.mkdir()
        write_embedded_json(folder / "x.json", clusters)
        write_embedded_table(folder / "x.parquet", clusters)
        assert len(list(folder.iterdir())) == 2
    assert (whole / "x.json").read_bytes() == (parts / "x.json").read_bytes()
    one, two = (pl.read_parquet(folder / "x.parquet") for folder in (whole, parts))
    assert one.equals(two)


def test_no_more_is_read_than_an_entry_needs(monkeypatch):
    content = io.BytesIO(b'{"a": [' + b", ".join([b'["MK", "h"]'] * 1000) + b"]}")
    monkeypatch.setattr(json_lists, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(json_lists.storage, "open_binary", lambda _: content)
    entries = read_entries("x.json")
    for number in range(1, 500):
        assert next(entries) == ("a", number, ["MK", "h"])
        assert content.tell() < 200 + 13 * number


BAD_JSON = {
    b"[]": "expected an object of clusters",
    b'"text"': "expected an object of clusters",
    b"{}": "holds no cluster",
    b'{"1": {}}': "cluster '1' is not a list",
    b'{"1": 12}': "cluster '1' is not a list",
    b"": "not valid JSON, it breaks off at its beginning; copy it or make it again",
    b"{": "not valid JSON, it breaks off at its beginning",
    b'{"1"': "breaks off in cluster '1'",
    b'{"1": ': "breaks off in cluster '1'",
    b'{"1": [["MK", "a"], ["M': "breaks off in entry 2 of cluster '1'",
    b'{"1": [["MK", "a"], ["M", "\xc3': "breaks off in entry 2 of cluster '1'",
    b'{"1": [["MK", "a"]': "breaks off in entry 1 of cluster '1'",
    b'{"1": [["MK", "a"]],': "breaks off behind cluster '1'",
    b'{"1": [["MK", "a"],]}': "not valid JSON in entry 2 of cluster '1' .Expecting value",
    b'{"1": [["MK", "a"]],}': "not valid JSON behind cluster '1'",
    b'{"1": [["MK", "a"] ["MK", "a"]]}': "in entry 1 of cluster '1' .expected ',', found '\\['",
    b'{"1": [["MK", "a"]]} {}': "behind cluster '1' .there is more behind its end",
    b'{1: [["MK", "a"]]}': "not valid JSON at its beginning .a name is not text",
    b'{"1": [["MK", "\xff"]]}': "not text in UTF-8",
    b'{"1": [["MK", "a\n"]]}': "in entry 1 of cluster '1' .Invalid control character",
    b'{"1": [["MK", "a"]], "1": [["ML", "b"]]}': "cluster '1' is there twice",
    b'{"1": [["MK", "a"]], "\\u0031": []}': "cluster '1' is there twice",
    b'{"1": [["MK", "\\ud800"]]}': "in entry 1 of cluster '1' .an escape spells half a character",
    b'{"\\udc00": []}': "an escape spells half a character",
    b'{"a": [' + b"[" * 100_000: "not valid JSON in entry 1 of cluster 'a'",
    b'{"a": [[1' + b"0" * 6000 + b', "h"]]}': "not valid JSON in entry 1 of cluster 'a'",
}


@pytest.mark.parametrize("content", BAD_JSON, ids=range(len(BAD_JSON)))
def test_what_is_no_json_of_clusters_is_refused(tmp_path, chunk_bytes, content):
    with pytest.raises(InputError, match=rf"x\.json: .*{BAD_JSON[content]}"):
        list(read_entries(write(tmp_path, content)))


def test_a_file_is_refused_wherever_it_breaks_off(tmp_path, chunk_bytes):
    whole = (
        '{"ä": [["MK", "a\\u00e4\\ud83d\\ude00", -1.5e-7, true], []], "b": [["M", "ü"]]}'.encode()
    )
    assert len(list(read_entries(write(tmp_path, whole)))) == 3
    for length in range(len(whole)):
        with pytest.raises(InputError, match="not valid JSON, it breaks off"):
            list(read_entries(write(tmp_path, whole[:length])))


def test_a_long_name_is_cut_off_in_errors(tmp_path):
    path = write(tmp_path, json.dumps({"x" * 5000: 1}))
    with pytest.raises(InputError) as caught:
        list(read_entries(path))
    assert len(str(caught.value)) < len(str(path)) + 120


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf{"a": [1]}')
    assert list(read_entries(path)) == [("a", 1, 1)]


BAD_SEQUENCES = {
    '{"1": [["MK"]]}': "entry 1 of cluster '1' is not a .sequence, header. pair",
    '{"1": [["MK", "a"], ["MK", 2]]}': "entry 2 of cluster '1' is not a",
    '{"1": ["MK"]}': "entry 1 of cluster '1' is not a",
    '{"1": [["MK", NaN]]}': "entry 1 of cluster '1' is not a",
    '{"1": [{"sequence": "MK", "header": "a"}]}': "entry 1 of cluster '1' is not a",
}


@pytest.mark.parametrize("content", BAD_SEQUENCES)
def test_other_entries_are_no_sequences(tmp_path, content):
    with pytest.raises(InputError, match=rf"x\.json: {BAD_SEQUENCES[content]}"):
        list(read_sequences(write(tmp_path, content)))


def entry(**change):
    content = {"sequence": "MK", "header": "a", "embedding": [1.0, 2.0]} | change
    return {name: value for name, value in content.items() if value is not None}


BAD_EMBEDDED = {
    "pairs": ([["MK", "a"]], "entry 1 of cluster 'Homo' lacks"),
    "no embedding": ([entry(), entry(embedding=None)], "entry 2 of cluster 'Homo' lacks"),
    "no header": ([entry(header=None)], "lacks sequence, header or embedding"),
    "another width": ([entry(), entry(embedding=[1.0])], "embedding of width 1, others 2"),
    "nested": ([entry(embedding=[[1.0], [2.0]])], "not a list of finite numbers"),
    "ragged": ([entry(embedding=[1.0, [2.0]])], "not a list of finite numbers"),
    "text": ([entry(embedding="vector")], "not a list of finite numbers"),
    "numbers as text": ([entry(embedding=["1.0"])], "not a list of finite numbers"),
    "truth": ([entry(embedding=[True])], "not a list of finite numbers"),
    "null": ([entry(embedding=[1.0, None])], "not a list of finite numbers"),
    "empty": ([entry(embedding=[])], "not a list of finite numbers"),
    "infinite": ([entry(embedding=[float("inf")])], "not a list of finite numbers"),
    "NaN": ([entry(embedding=[1.0, float("nan")])], "not a list of finite numbers"),
    "beyond float32": ([entry(embedding=[1e300])], "not a list of finite numbers"),
    "long number": ([entry(embedding=[10**400])], "not a list of finite numbers"),
    "number as sequence": ([entry(sequence=1)], "sequence or header that is not text"),
    "nothing": ([], "holds no embedded protein"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDED)
def test_other_shapes_of_embedded_clusters_are_refused(tmp_path, case):
    members, message = BAD_EMBEDDED[case]
    with pytest.raises(InputError, match=rf"x\.json: .*{message}"):
        read_embedded_json(write(tmp_path, json.dumps({"Homo": members})))


def table(**change):
    columns = {
        "taxon": ["A", "B"],
        "sequence_id": ["P1", "P2"],
        "header": ["P1 one", "P2 two"],
        "sequence": ["MK", "ML"],
        "embedding": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
    }
    return pl.DataFrame(columns | change)


BAD_TABLES = {
    "lists": (table(embedding=[[1.0], [2.0]]), "not a table of embedded clusters"),
    "another column": (table(cluster=[1, 2]), "not a table of embedded clusters"),
    "no sequence": (table().drop("sequence"), "not a table of embedded clusters"),
    "no row": (table().clear(), "holds no embedded protein"),
    "no header": (table(header=pl.Series([None, "P2"])), "missing or not finite"),
    "no vector": (table().with_columns(pl.col("embedding").shift(1)), "missing or not finite"),
    "NaN": (
        table(embedding=pl.Series([[1.0, np.nan]] * 2, dtype=pl.Array(pl.Float32, 2))),
        "missing or not finite",
    ),
    "null in a vector": (
        table(embedding=pl.Series([[1.0, None]] * 2, dtype=pl.Array(pl.Float32, 2))),
        "missing or not finite",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_other_tables_of_embedded_clusters_are_refused(tmp_path, case):
    frame, message = BAD_TABLES[case]
    frame.write_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=rf"x\.parquet: .*{message}; *|{message}"):
        read_embedded_table(tmp_path / "x.parquet")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_text("{}")
    assert not is_embedded_table(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: not a table of embedded clusters"):
        read_embedded_table(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"y\.parquet: no such file"):
        read_embedded_table(tmp_path / "y.parquet")
