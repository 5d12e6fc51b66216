"""Input that nobody means to give: each is one clear error line."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from esm_sae import embed_uniref, storage
from esm_sae.embedding import EmbeddingOptions, convert_pt, load_encoder, register_encoder
from esm_sae.embedding.esmc import load_esmc
from esm_sae.errors import InputError
from esm_sae_assets.settings import load_settings

ToyBackbone = runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))["ToyBackbone"]
HUGE = 10**30


def toy_that_gives(change):
    """Register the toy encoder with its states changed, and load it."""

    class Backbone(ToyBackbone):
        def states(self, tokens, *, layer, padded):
            return change(super().states(tokens, layer=layer, padded=padded))

    register_encoder("odd", Backbone)
    return load_encoder("odd", device="cpu")


@pytest.mark.parametrize("pooling", ["mean", "bos", "residue"])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda states: states[:, 1:-1], r"shape \(2, 3, 4\)"),
        (lambda states: states[..., :1], r"shape \(2, 5, 1\)"),
        (lambda states: states[:1], r"shape \(1, 5, 4\)"),
        (lambda states: states[0], r"shape \(5, 4\)"),
        (lambda states: None, "a NoneType"),
        (lambda states: states.numpy(), "a ndarray"),
        (lambda states: states.long(), "torch.int64"),
        (lambda states: states.to(torch.complex64), "torch.complex64"),
        (lambda states: states.to_sparse(), "torch.sparse_coo"),
        (lambda states: states.to("meta"), "on meta"),
    ],
)
def test_states_of_a_registered_encoder_must_be_of_the_shape_that_is_expected(
    change, found, pooling
):
    message = rf"encoder 'odd': its states\(\) gives .*{found}.*shape \(2, 5, 4\)"
    with pytest.raises(InputError, match=message):
        toy_that_gives(change).embed(["MKV", "MKW"], pooling=pooling)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_states_may_be_of_any_floating_type(dtype):
    rows = toy_that_gives(lambda states: states.to(dtype)).embed(["MKV"])
    assert rows.dtype == "float32"
    assert abs(rows - toy_that_gives(lambda states: states).embed(["MKV"])).max() < 0.02


@pytest.mark.parametrize("pooling", ["mean", "residue"])
@pytest.mark.parametrize(("sequences", "number"), [(["M", "MKVL", "MK"], 2), (["MKVL", "M"], 1)])
def test_a_sequence_whose_rows_are_not_finite_is_named(pooling, sequences, number):
    def spoil(states):
        return states / 0 if states.shape[1] == 6 else states

    with pytest.raises(InputError, match=f"sequence {number} of {len(sequences)}: odd gives"):
        toy_that_gives(spoil).embed(sequences, pooling=pooling, batch_tokens=6)


def build(weights, device):
    return load_esmc(32, 2, 2, weights=weights, hub=None, device=device)


@pytest.fixture(scope="module")
def tensors():
    register_encoder("tiny_odd", build)
    return load_encoder("tiny_odd", device="cpu").backbone.model.state_dict()


def load(path):
    return load_encoder("tiny_odd", weights=path, device="cpu")


NAME = "transformer.blocks.0.attn.out_proj.weight"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensor: tensor.to(torch.int8), "torch.int8"),
        (lambda tensor: tensor.long(), "torch.int64"),
        (lambda tensor: tensor.bool(), "torch.bool"),
        (lambda tensor: tensor.to(torch.complex64), "torch.complex64"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (lambda tensor: tensor.to_sparse(), "torch.sparse_coo"),
        (lambda tensor: tensor.to("meta"), "on meta"),
    ],
)
def test_weights_are_dense_and_floating(tmp_path, tensors, change, found):
    torch.save({**tensors, NAME: change(tensors[NAME])}, tmp_path / "w.pth")
    message = rf"w\.pth: has a tensor {NAME} of no dense floating-point values \(.*{found}"
    with pytest.raises(InputError, match=message):
        load(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: torch.nested.nested_tensor(list(tensor)),
        lambda tensor: tensor.to_sparse_csr(),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
)
def test_weights_that_torch_warns_of_are_refused(tmp_path, tensors, change):
    torch.save({**tensors, NAME: change(tensors[NAME])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"{NAME} of no dense floating-point values"):
        load(tmp_path / "w.pth")


def test_a_float64_weight_beyond_float32_is_refused(tmp_path, tensors):
    large = torch.full_like(tensors[NAME], 1e300, dtype=torch.float64)
    save_file({**tensors, NAME: large}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=f"{NAME} with values that are not finite"):
        load(tmp_path / "w.safetensors")


def test_a_negated_view_is_a_weight_like_others(tmp_path, tensors):
    negated = {**tensors, NAME: torch._neg_view(tensors[NAME])}
    plain = {**tensors, NAME: -tensors[NAME]}
    torch.save(negated, tmp_path / "view.pth")
    torch.save(plain, tmp_path / "plain.pth")
    one, other = load(tmp_path / "view.pth"), load(tmp_path / "plain.pth")
    assert one.weights_sha256 == other.weights_sha256
    assert (one.embed(["MKV"]) == other.embed(["MKV"])).all()


def test_weights_of_a_file_url_are_read_and_of_another_url_are_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "w.safetensors")
    assert load(f"file://{tmp_path}/w.safetensors").weights_sha256
    with pytest.raises(InputError, match=r"^https://a\.b/w\.pth: is a URL.*a local path"):
        load("https://a.b/w.pth")


@pytest.mark.parametrize("name", ["max_length", "residues_per_protein", "batch_tokens"])
def test_numbers_beyond_32_bits_are_refused(name):
    most = 2**31 - 1
    assert getattr(EmbeddingOptions(pooling="residue", **{name: most}), name) == most
    for value in (most + 1, HUGE):
        with pytest.raises(InputError, match=f"{name} {value}: .* at most 2,147,483,647"):
            EmbeddingOptions(pooling="residue", **{name: value})
        variable = f"ESM_SAE_EMBEDDING_{name.upper()}"
        with pytest.raises(InputError, match=f"settings: embedding.{name} = '{value}'"):
            load_settings({variable: str(value)})


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone", "xla", "vulkan", "mkldnn"])
def test_devices_that_cannot_compute_are_refused_in_a_few_words(device):
    register_encoder("toy_here", ToyBackbone)
    with pytest.raises(InputError) as caught:
        load_encoder("toy_here", device=device)
    assert str(caught.value).startswith(f"device '{device}': not to be had here; name one of cpu")
    assert len(str(caught.value)) < 200


def test_a_matrix_without_values_is_refused(tmp_path):
    torch.save(torch.ones(3, 4, device="meta"), tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: .*without values"):
        convert_pt(tmp_path, tmp_path / "npy")
    assert not list((tmp_path / "npy").glob("*"))


@pytest.mark.filterwarnings("ignore")
def test_a_nested_matrix_is_refused(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
    torch.save({"embeddings": nested}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: "):
        convert_pt(tmp_path, tmp_path / "npy")


def test_a_manifest_without_counts_does_not_stop_a_conversion(tmp_path):
    torch.save(torch.ones(3, 4), tmp_path / "a.pt")
    manifest = convert_pt(tmp_path, tmp_path / "npy").product.manifest_path
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"summary": {}}))
    report = convert_pt(tmp_path, tmp_path / "npy")
    assert (report.files, report.rows, report.product.unchanged) == (1, 3, True)


def test_a_link_to_nothing_is_named(tmp_path):
    torch.save(torch.ones(3, 4), tmp_path / "a.pt")
    (tmp_path / "c.npy").symlink_to(tmp_path / "gone.npy")
    assert storage.list_files(tmp_path, "*.pt") == [tmp_path / "a.pt"]
    (tmp_path / "b.pt").symlink_to(tmp_path / "gone.pt")
    with pytest.raises(InputError, match=r"b\.pt: links to .*gone\.pt, which is not there"):
        convert_pt(tmp_path, tmp_path / "npy")
    (tmp_path / "gone.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    assert convert_pt(tmp_path, tmp_path / "npy").files == 3


def test_a_shard_whose_manifest_lost_its_counts_is_named(write_fasta, tmp_path, capsys):
    register_encoder("toy_here", ToyBackbone)
    fasta = write_fasta([(f"P{number}", "MKV" * number) for number in range(1, 5)])
    line = f"--fasta {fasta} --output {tmp_path / 'out'} --model toy_here --device cpu --quiet"
    line = [*line.split(), "--sequences_per_shard", "2"]
    assert embed_uniref.main(line) == 0
    made = capsys.readouterr().out.splitlines()[0]
    path = tmp_path / "out" / "embeddings_0001-of-0002.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"summary": {}}))
    assert embed_uniref.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: records no number of proteins; remove it")
    assert error.count("\n") == 1
    path.unlink()
    assert embed_uniref.main(line) == 0
    assert capsys.readouterr().out.splitlines()[0] == made
