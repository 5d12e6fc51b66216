"""Files made to run code or to read what they should not, given to every reader of foreign data."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from esm_sae.embedding.pt_files import open_pt
from esm_sae.embedding.weights import read_weights
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, read_checkpoint, read_config, write_config
from esm_sae.formats.clusters_json import read_sequences
from esm_sae.formats.embedded_clusters import read_embedded_json
from esm_sae.formats.manifest import parse_manifest, read_manifest
from esm_sae.formats.npy_dict import load_npy_dict
from esm_sae.formats.shards import map_matrix, open_shards
from esm_sae.split import read_similarity_clusters

READERS = {
    "checkpoint": ("L8_k2.npy", lambda path: read_checkpoint(path, k=2)),
    "dictionary of arrays": ("x.npy", load_npy_dict),
    "matrix": ("x.npy", map_matrix),
    "folder of shards": ("x.npy", lambda path: open_shards(path.parent)),
    "folder of shards, hidden in a shard's name": (
        "embeddings_0000-of-0001.npy",
        lambda path: open_shards(path.parent),
    ),
    "matrix of torch": ("x.pt", open_pt),
    "weights of torch": ("x.pth", read_weights),
    "weights": ("x.safetensors", read_weights),
    "cluster JSON": ("x.json", lambda path: list(read_sequences(path))),
    "embedded clusters": ("x.json", read_embedded_json),
    "similarity clusters": ("x.parquet", read_similarity_clusters),
    "manifest": ("manifest.json", read_manifest),
}


class Payload:
    """An object whose pickle runs a shell command when it is read."""

    def __init__(self, mark):
        self.command = f"touch '{mark}'"

    def __reduce__(self):
        return os.system, (self.command,)


def npy_of(mark):
    file = io.BytesIO()
    np.save(file, np.array({"enc": Payload(mark)}, dtype=object), allow_pickle=True)
    return file.getvalue()


def npz_of(mark):
    file = io.BytesIO()
    np.savez(file, x=np.array([Payload(mark)], dtype=object))
    return file.getvalue()


def torch_zip_of(mark):
    file = io.BytesIO()
    torch.save({"weight": Payload(mark)}, file)
    return file.getvalue()


def torch_legacy_of(mark):
    file = io.BytesIO()
    torch.save({"weight": Payload(mark)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def torch_script_of(mark):
    """The zip form with another pickle than torch writes, for readers that look at the names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(mark)))
        archive.writestr("archive/constants.pkl", pickle.dumps(Payload(mark)))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def behind_a_header(pickled):
    """An object array of NumPy's whose pickle is the given bytes."""
    header = npy_of("x")
    start = len(np.lib.format.magic(1, 0)) + 2 + struct.unpack("<H", header[8:10])[0]
    return header[:start] + pickled


ATTACKS = {
    "an array of objects": npy_of,
    "an archive of arrays": npz_of,
    "a bare pickle": lambda mark: pickle.dumps(Payload(mark)),
    "a file of torch": torch_zip_of,
    "an older file of torch": torch_legacy_of,
    "a script of torch": torch_script_of,
    # Opcodes of the protocols before 2, which reach their class on other ways.
    "INST": lambda mark: behind_a_header(f"(S\"touch '{mark}'\"\nios\nsystem\n.".encode()),
    "OBJ": lambda mark: behind_a_header(f"(cos\nsystem\nS\"touch '{mark}'\"\no.".encode()),
    "a name with dots": lambda mark: behind_a_header(
        b"\x80\x04\x8c\x0bcollections\x8c\x1eOrderedDict.__init__.__globals__\x93."
    ),
    "persistent id": lambda mark: behind_a_header(f"P{mark}\n.".encode()),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_what_a_file_holds(tmp_path, reader, attack):
    folder, mark = tmp_path / "data", tmp_path / "mark"
    folder.mkdir()
    name, read = READERS[reader]
    (folder / name).write_bytes(ATTACKS[attack](mark))
    with pytest.raises(InputError) as raised:
        read(folder / name)
    assert not mark.exists()
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    "attack", ["an array of objects", "a file of torch", "an older file of torch"]
)
def test_the_attacks_do_run_where_nothing_guards(tmp_path, attack):
    mark = tmp_path / "mark"
    content = io.BytesIO(ATTACKS[attack](mark))
    if attack == "an array of objects":
        np.load(content, allow_pickle=True)
    else:
        torch.load(content, weights_only=False)
    assert mark.exists()


def test_opcodes_that_are_attacks_do_run_where_nothing_guards(tmp_path):
    for opcode in ("INST", "OBJ"):
        mark = tmp_path / opcode
        np.load(io.BytesIO(ATTACKS[opcode](mark)), allow_pickle=True)
        assert mark.exists()


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_safetensors_header_of_any_length_is_refused(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":{"dtype":"F32"}}')
    with pytest.raises(InputError, match="not a safetensors file"):
        read_weights(path)


@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**62, 4), (-1, 4)])
def test_a_matrix_larger_than_its_file_is_refused(tmp_path, shape):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    with pytest.raises(InputError, match=r"x\.npy"):
        map_matrix(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '"\\ud800"'])
@pytest.mark.parametrize("reader", ["cluster JSON", "embedded clusters", "manifest"])
def test_json_made_to_exhaust_its_reader_is_refused(tmp_path, reader, content):
    name, read = READERS[reader]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["../x.npy", "/etc/passwd", "a/../../x", "..", "", ".", "a\0b"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_refused(tmp_path, name):
    entry = {"sha256": "0" * 64, "bytes": 1}
    content = {"kind": "sample", "fingerprint": "0" * 64, "determinants": {}, "summary": {}}
    text = json.dumps(content | {"files": {name: entry}})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="not a manifest"):
        parse_manifest(text.encode(), "s3://bucket/manifest.json")
    (tmp_path / "manifest.json").write_text(text.replace(json.dumps(name), '"a/x.npy"'))
    assert read_manifest(tmp_path).files == {"a/x.npy": entry}


@pytest.mark.parametrize(
    "damage",
    [
        *({"sha256": value} for value in (5, None, [], {}, "", "0" * 63, "0" * 65, "G" * 64)),
        *({"sha256": value} for value in ("/" + "0" * 63, "../" + "0" * 61, "0" * 64 + "\n")),
        *({"bytes": value} for value in ("x", "1", None, [], {}, -1, 1.0, True)),
    ],
)
def test_a_manifest_whose_files_have_no_hash_or_size_is_refused(tmp_path, damage):
    entry = {"sha256": "0" * 64, "bytes": 1}
    content = {"kind": "sample", "fingerprint": "0" * 64, "determinants": {}, "summary": {}}
    lacking = {name: value for name, value in entry.items() if name not in damage}
    for damaged in (entry | damage, lacking):
        text = json.dumps(content | {"files": {"x.npy": damaged}})
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match="not a manifest"):
            read_manifest(tmp_path)
        with pytest.raises(InputError, match="not a manifest"):
            parse_manifest(text.encode(), "s3://bucket/manifest.json")


@pytest.mark.parametrize("name", ["../x.npy", "/etc/passwd"])
def test_a_config_that_names_a_checkpoint_elsewhere_is_refused(tmp_path, name):
    write_config(tmp_path, SAEConfig(8, 4, 2, final_checkpoint=name))
    with pytest.raises(InputError, match="not the config of a training"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="not the config of a training"):
        read_checkpoint(tmp_path)
