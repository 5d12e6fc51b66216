import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import (
    EmbeddedClusters,
    encode_embedded,
    encode_sequences,
    read_embedded,
    read_sequences,
)

TEXT = st.text(max_size=12)
VECTORS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(st.dictionaries(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=4), min_size=1, max_size=5))
def test_sequences_round_trip(tmp_path_factory, clusters):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_bytes(encode_sequences(clusters))
    found = read_sequences(path)
    assert found == clusters
    assert list(found) == list(clusters)


@given(VECTORS, st.data())
def test_embeddings_round_trip_to_the_last_bit(tmp_path_factory, vectors, data):
    path = tmp_path_factory.mktemp("json") / "x.json"
    count = len(vectors)
    # Proteins of a taxon stand together in the file.
    taxa = sorted(data.draw(st.lists(TEXT, min_size=count, max_size=count)))
    sequences, headers = [f"M{n}" for n in range(count)], [f"h{n}" for n in range(count)]
    path.write_bytes(encode_embedded(EmbeddedClusters(taxa, sequences, headers, vectors)))
    found = read_embedded(path)
    assert (found.taxa, found.sequences, found.headers) == (taxa, sequences, headers)
    assert found.embeddings.dtype == np.float32
    np.testing.assert_array_equal(found.embeddings.view(np.uint32), vectors.view(np.uint32))


def test_the_files_have_the_shapes_of_the_original(tmp_path):
    assert json.loads(encode_sequences({"1": [("MK", "a b")]})) == {"1": [["MK", "a b"]]}
    embedded = EmbeddedClusters(["Homo"], ["MK"], ["a b"], np.array([[0.1, 2]], np.float32))
    assert json.loads(encode_embedded(embedded)) == {
        "Homo": [{"sequence": "MK", "header": "a b", "embedding": [0.1, 2.0]}]
    }


BAD_SEQUENCES = {
    "[]": "expected an object of clusters",
    "{}": "holds no cluster",
    '{"1": {}}': "cluster '1' is not a list",
    '{"1": [["MK"]]}': "entry 1 of cluster '1' is not a",
    '{"1": [["MK", "a"], ["MK", 2]]}': "entry 2 of cluster '1' is not a",
    '{"1": ["MK"]}': "entry 1 of cluster '1' is not a",
    "{": "not valid JSON",
    "": "not valid JSON",
}


@pytest.mark.parametrize("content", BAD_SEQUENCES)
def test_other_shapes_of_sequences_are_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"x\.json: .*{BAD_SEQUENCES[content]}"):
        read_sequences(path)


def entry(**change):
    content = {"sequence": "MK", "header": "a", "embedding": [1.0, 2.0]} | change
    return {name: value for name, value in content.items() if value is not None}


BAD_EMBEDDED = {
    "pairs": ([["MK", "a"]], "entry 1 of taxon 'Homo' lacks"),
    "no embedding": ([entry(), entry(embedding=None)], "entry 2 of taxon 'Homo' lacks"),
    "no header": ([entry(header=None)], "lacks sequence, header or embedding"),
    "another width": ([entry(), entry(embedding=[1.0])], "embedding of width 1, others 2"),
    "nested": ([entry(embedding=[[1.0], [2.0]])], "not a list of finite numbers"),
    "ragged": ([entry(embedding=[1.0, [2.0]])], "not a list of finite numbers"),
    "text": ([entry(embedding="vector")], "not a list of finite numbers"),
    "empty": ([entry(embedding=[])], "not a list of finite numbers"),
    "infinite": ([entry(embedding=[float("inf")])], "not a list of finite numbers"),
    "number as sequence": ([entry(sequence=1)], "sequence or header that is not text"),
    "nothing": ([], "holds no embedded protein"),
}


@pytest.mark.parametrize("case", BAD_EMBEDDED)
def test_other_shapes_of_embedded_clusters_are_refused(tmp_path, case):
    members, message = BAD_EMBEDDED[case]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"Homo": members}))
    with pytest.raises(InputError, match=rf"x\.json: .*{message}"):
        read_embedded(path)


UNUSABLE = {
    "deep": "[" * 100_000,
    "long number": '{"a": [[1' + "0" * 6000 + ', "h"]]}',
    "half a character": '{"a": [["MK", "\\ud800"]]}',
}


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
def test_json_that_python_cannot_hold_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="not valid JSON"):
        read_sequences(tmp_path / "a.json")
