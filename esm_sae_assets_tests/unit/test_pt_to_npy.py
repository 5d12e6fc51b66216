import numpy as np
import pytest
import torch

from esm_sae import pt_to_npy
from esm_sae.embedding import convert_pt, open_shards
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
def test_matrices_keep_their_values(source, tmp_path, dtype, expected, in_dictionary):
    tensor = MATRIX.to(dtype)
    content = {"embeddings": tensor, "start_idx": 0, "end_idx": 3} if in_dictionary else tensor
    torch.save(content, source / "embeddings_0.pt")
    report = convert_pt(source, tmp_path / "npy")
    converted = load(tmp_path / "npy" / "embeddings_0.npy")
    assert (report.files, report.rows, converted.dtype) == (1, 3, expected)
    np.testing.assert_array_equal(converted, tensor.to(torch.float32).numpy().astype(expected))
    assert converted.flags.c_contiguous


def test_a_transposed_tensor_is_written_row_by_row(source, tmp_path):
    torch.save(MATRIX.T, source / "a.pt")
    convert_pt(source, tmp_path / "npy")
    converted = load(tmp_path / "npy" / "a.npy")
    np.testing.assert_array_equal(converted, MATRIX.T.numpy())
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
        (torch.full((3, 4), torch.nan), "not finite"),
        ([MATRIX], "holds a list, expected a tensor or a dictionary"),
        ({"weights": MATRIX}, "a dictionary with the keys weights, expected"),
        ({"embeddings": MATRIX, "labels": [1]}, "keys embeddings, labels"),
        ({"embeddings": [1.0]}, "holds a list"),
    ],
)
def test_anything_else_is_refused_by_name_and_nothing_is_written(
    source, tmp_path, content, message
):
    torch.save(MATRIX, source / "a.pt")
    torch.save(content, source / "b.pt")
    with pytest.raises(InputError, match=rf"b\.pt: .*{message}"):
        convert_pt(source, tmp_path / "npy")
    assert list((tmp_path / "npy").iterdir()) == []


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
