import contextlib
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch

from esm_sae import pt_to_npy
from esm_sae.embedding import convert_pt, open_shards
from esm_sae.embedding.pt_files import PtFile
from esm_sae.errors import InputError

MATRIX = torch.arange(12.0).reshape(3, 4) / 7


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pt"
    folder.mkdir()
    return folder


def load(path):
    return np.load(path, allow_pickle=False)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, np.float32),
        (torch.float16, np.float16),
        (torch.bfloat16, np.float32),
    ],
)
@pytest.mark.parametrize("in_dictionary", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
def test_matrices_keep_their_values(source, tmp_path, dtype, expected, in_dictionary, zipped):
    tensor = MATRIX.to(dtype)
    content = {"embeddings": tensor, "start_idx": 0, "end_idx": 3} if in_dictionary else tensor
    path = source / "embeddings_0.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    report = convert_pt(source, tmp_path / "npy")
    converted = load(tmp_path / "npy" / "embeddings_0.npy")
    assert (report.files, report.rows, converted.dtype) == (1, 3, expected)
    np.testing.assert_array_equal(converted, tensor.to(torch.float32).numpy().astype(expected))
    assert converted.flags.c_contiguous


VIEWS = {
    "transposed": MATRIX.T,
    "rows": MATRIX[1:],
    "every other column": MATRIX[:, 1::2],
    "one row for all": MATRIX[:1].expand(5, 4),
    "negated": torch.conj(MATRIX.to(torch.complex64) * 1j).imag,
}


@pytest.mark.parametrize("view", list(VIEWS))
def test_a_view_of_a_larger_tensor_is_written_row_by_row(source, tmp_path, view, monkeypatch):
    monkeypatch.setattr(PtFile, "rows_per_chunk", 2)
    torch.save(VIEWS[view], source / "a.pt")
    convert_pt(source, tmp_path / "npy")
    converted = load(tmp_path / "npy" / "a.npy")
    np.testing.assert_array_equal(converted, VIEWS[view].resolve_neg().numpy())
    assert converted.flags.c_contiguous


def test_a_parameter_is_a_tensor(source, tmp_path):
    torch.save(torch.nn.Parameter(MATRIX), source / "a.pt")
    convert_pt(source, tmp_path / "npy")
    np.testing.assert_array_equal(load(tmp_path / "npy" / "a.npy"), MATRIX.numpy())


def test_the_result_opens_as_embeddings_in_natural_order(source, tmp_path):
    for number in (2, 10):
        torch.save(MATRIX * number, source / f"batch_{number}.pt")
    convert_pt(source, tmp_path / "npy")
    with pytest.warns(UserWarning, match="encoder, layer and pooling are unknown"):
        shards = open_shards(tmp_path / "npy")
    np.testing.assert_array_equal(shards.arrays[0], MATRIX.numpy() * 2)


def test_a_rerun_is_unchanged_and_a_removed_source_is_dropped(source, tmp_path):
    for name in ("a", "b"):
        torch.save(MATRIX, source / f"{name}.pt")
    assert not convert_pt(source, tmp_path / "npy").product.unchanged
    assert convert_pt(source, tmp_path / "npy").product.unchanged
    (source / "b.pt").unlink()
    convert_pt(source, tmp_path / "npy")
    assert not (tmp_path / "npy" / "b.npy").exists()


def test_matrices_may_go_beside_their_sources(source):
    torch.save(MATRIX, source / "a.pt")
    convert_pt(source, source)
    np.testing.assert_array_equal(load(source / "a.npy"), MATRIX.numpy())
    assert (source / "a.pt").exists()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), r"a tensor of shape \(3,\), expected \(N, D\)"),
        (torch.zeros(0, 4), r"a tensor of shape \(0, 4\)"),
        (torch.zeros(3, 4).to_sparse(), "expected"),
        (torch.zeros(3, 4, dtype=torch.int64), "torch.int64, expected float32"),
        (torch.full((3, 4), torch.nan), "row 0 holds values that are not finite"),
        ([MATRIX], "holds a list, expected a tensor or a dictionary"),
        ({"weights": MATRIX}, "a dictionary with the keys weights, expected"),
        ({"embeddings": MATRIX, "labels": [1]}, "keys embeddings, labels"),
        ({"embeddings": [1.0]}, "holds a list"),
        ({"embeddings": MATRIX, "start_idx": "0"}, "start_idx is a str, expected a number"),
        ({"embeddings": MATRIX, "end_idx": -1}, "end_idx is -1, expected a number"),
        ({"embeddings": MATRIX, "end_idx": True}, "end_idx is a bool"),
    ],
)
def test_anything_else_is_refused_by_name_and_nothing_is_written(
    source, tmp_path, content, message
):
    torch.save(MATRIX, source / "a.pt")
    torch.save(content, source / "b.pt")
    with pytest.raises(InputError, match=rf"b\.pt: .*{message}"):
        convert_pt(source, tmp_path / "npy")
    assert list((tmp_path / "npy").glob("*")) == []


def test_a_file_that_runs_code_is_refused(source, tmp_path):
    torch.save({"embeddings": Malicious(tmp_path / "pwned")}, source / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: not a file of tensors that may be read"):
        convert_pt(source, tmp_path / "npy")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04 not a zip"])
def test_a_damaged_file_is_named(source, tmp_path, content):
    (source / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: not a file of tensors"):
        convert_pt(source, tmp_path / "npy")


def test_a_file_cut_off_anywhere_is_named(source, tmp_path):
    torch.save(MATRIX, source / "whole.pt")
    whole = (source / "whole.pt").read_bytes()
    (source / "whole.pt").unlink()
    for length in range(0, len(whole), 97):
        (source / "a.pt").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.pt: not a file of tensors"):
            convert_pt(source, tmp_path / "npy")


def rewrite(path, *, compression=zipfile.ZIP_STORED, **records):
    """Write a .pt file anew, with other bytes in some of its records."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, records.get(name.rpartition("/")[2], data))


def test_a_compressed_file_is_read(source, tmp_path):
    torch.save(MATRIX, source / "a.pt")
    rewrite(source / "a.pt", compression=zipfile.ZIP_DEFLATED)
    convert_pt(source, tmp_path / "npy")
    np.testing.assert_array_equal(load(tmp_path / "npy" / "a.npy"), MATRIX.numpy())


def test_a_file_from_a_machine_of_the_other_byte_order_is_read(source, tmp_path):
    other = {"little": "big", "big": "little"}[sys.byteorder]
    torch.save(MATRIX, source / "a.pt")
    rewrite(source / "a.pt", byteorder=other.encode(), **{"0": MATRIX.numpy().byteswap().tobytes()})
    convert_pt(source, tmp_path / "npy")
    np.testing.assert_array_equal(load(tmp_path / "npy" / "a.npy"), MATRIX.numpy())


def test_a_tensor_that_claims_more_values_than_there_are_is_refused(source, tmp_path):
    torch.save(MATRIX, source / "a.pt")
    rewrite(source / "a.pt", **{"0": MATRIX.numpy().tobytes()[:-4]})
    with pytest.raises(InputError, match=r"a\.pt: not a file of tensors .*values are missing"):
        convert_pt(source, tmp_path / "npy")


def test_damaged_bytes_are_refused_or_change_values_only(source, tmp_path):
    torch.save({"embeddings": MATRIX, "start_idx": 0, "end_idx": 3}, source / "a.pt")
    whole = (source / "a.pt").read_bytes()
    generator = np.random.default_rng(0)
    for position in generator.integers(len(whole), size=150).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(8))
        (source / "a.pt").write_bytes(damaged)
        with warnings.catch_warnings(), contextlib.suppress(InputError):
            warnings.simplefilter("ignore")
            report = convert_pt(source, tmp_path / "npy")
            assert load(report.product.path).ndim == 2


CONVERT_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from esm_sae.embedding import convert_pt
import esm_sae.embedding.torch_files
data = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line]
limit = int(data[0].split()[1]) * 1024 + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(convert_pt(sys.argv[1], sys.argv[2]).rows)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's own memory")
def test_a_file_larger_than_memory_is_converted(source, tmp_path, python):
    size = 1 << 27
    torch.save(torch.zeros(size // 4096, 1024), source / "a.pt")
    done = python(CONVERT_IN_LITTLE_MEMORY, source, tmp_path / "npy", size // 2)
    assert done.stdout == f"{size // 4096}\n"


def numbered(source, *files, rows=3):
    for number, (start, end) in enumerate(files):
        numbers = {"start_idx": start, "end_idx": end}
        content = {name: value for name, value in numbers.items() if value is not None}
        torch.save({"embeddings": torch.ones(rows, 2)} | content, source / f"part_{number}.pt")


@pytest.mark.parametrize(
    "files",
    [
        [(0, 3), (3, 6), (6, 9)],
        [(0, 2), (3, 5), (6, 8)],
        [(100, 103), (103, 106)],
        [(0, None), (3, None)],
        [(None, 3), (None, 6)],
        [(None, None), (3, 6)],
    ],
)
def test_numbers_that_fit_are_silent(source, tmp_path, files):
    numbered(source, *files)
    convert_pt(source, tmp_path / "npy")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([(0, 3), (2, 5)], "part_1.pt: start_idx is 2, 1 rows overlap with part_0.pt"),
        ([(0, 3), (0, 3)], "part_1.pt: start_idx is 0, 3 rows overlap with part_0.pt"),
        ([(0, 3), (5, 8)], "part_1.pt: start_idx is 5, 2 rows are missing behind part_0.pt"),
        ([(0, 7), (7, 10)], "part_0.pt: end_idx is 7, its 3 rows end at 3"),
        ([(3, 6), (0, 3)], "part_1.pt: comes first by its number, but not by its name"),
    ],
)
def test_numbers_that_do_not_fit_are_reported(source, tmp_path, files, message):
    numbered(source, *files)
    with pytest.warns(UserWarning, match=message):
        convert_pt(source, tmp_path / "npy")
    assert sorted(path.name for path in (tmp_path / "npy").glob("*.npy")) == [
        "part_0.npy",
        "part_1.npy",
    ]


@pytest.mark.parametrize("option", ["--output_dir", "--output"])
def test_the_command_takes_the_original_option_names(source, tmp_path, capsys, option):
    torch.save(MATRIX, source / "a.pt")
    assert pt_to_npy.main(["--input_dir", str(source), option, str(tmp_path / "npy")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'npy'}: 3 rows in 1 matrices\n"
    assert (tmp_path / "npy" / "a.npy").is_file()


def test_the_command_fails_with_one_line(source, tmp_path, capsys):
    assert pt_to_npy.main(["--input_dir", str(source), "--output", str(tmp_path / "npy")]) == 2
    assert capsys.readouterr().err == f"error: {source}: holds no .pt files\n"
    assert not (tmp_path / "npy").exists()
