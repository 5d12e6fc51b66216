import functools

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from esm_sae.embedding import load_encoder, register_encoder
from esm_sae.embedding.esmc import load_esmc
from esm_sae.embedding.weights import hash_of
from esm_sae.errors import InputError


def build(weights, device):
    return load_esmc(32, 2, 2, weights=weights, hub=None, device=device)


register_encoder("tiny", build)
load = functools.partial(load_encoder, "tiny", device="cpu")


@pytest.fixture(scope="module")
def tensors():
    return load().backbone.model.state_dict()


def test_weights_from_either_format_give_the_same_encoder(tmp_path, tensors):
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    one, other = load(weights=tmp_path / "w.pth"), load(weights=tmp_path / "w.safetensors")
    assert one.weights_sha256 == other.weights_sha256 == load().weights_sha256
    assert one.note == ""
    assert (one.embed(["MKV"]) == load().embed(["MKV"])).all()


def test_the_hash_is_that_of_names_types_shapes_and_values(tensors):
    def changed(**change):
        return hash_of({"a": torch.zeros(2, 3), **change})

    hashes = {
        changed(),
        changed(a=torch.zeros(3, 2)),
        changed(a=torch.zeros(2, 3, dtype=torch.bfloat16)),
        changed(a=torch.ones(2, 3)),
        changed(b=torch.zeros(1)),
    }
    assert len(hashes) == 5
    assert hash_of(dict(reversed(tensors.items()))) == hash_of(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("embed.weight"), "lacks the tensor embed.weight"),
        (lambda t: t.update(more=torch.zeros(1)), "has a tensor more that the encoder has not"),
        (lambda t: t.update({"embed.weight": torch.zeros(64, 8)}), r"shape \(64, 8\)"),
        (
            lambda t: t.update({"transformer.norm.weight": torch.full((32,), torch.nan)}),
            "transformer.norm.weight with values that are not finite",
        ),
    ],
)
def test_weights_must_fit_tensor_by_tensor(tmp_path, tensors, change, message):
    wrong = dict(tensors)
    change(wrong)
    torch.save(wrong, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load(weights=tmp_path / "w.pth")


def test_weights_that_run_code_are_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"embed.weight": Malicious()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not a file of tensors"):
        load(weights=tmp_path / "w.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(InputError, match=f"{name}: not a"):
        load(weights=tmp_path / name)


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(InputError, match="not a mapping of names to tensors"):
        load(weights=tmp_path / "w.pth")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        load(weights=tmp_path / "none.pth")
    with pytest.raises(InputError, match="is a directory"):
        load(weights=tmp_path)


def test_without_the_hub_the_message_says_how_to_get_the_weights(monkeypatch):
    def offline(repository, file):
        assert (repository, file) == ("a/b", "data/w.pth")
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    register_encoder(
        "hub",
        lambda weights, device: load_esmc(
            32, 2, 2, weights=weights, hub=("a/b", "data/w.pth"), device=device
        ),
    )
    with pytest.raises(InputError, match=r"fetch w.pth of huggingface.co/a/b .* --weights PATH"):
        load_encoder("hub", device="cpu")


def test_weights_of_the_hub_are_loaded_from_where_it_keeps_them(tmp_path, tensors, monkeypatch):
    torch.save(tensors, tmp_path / "w.pth")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(tmp_path / "w.pth"))
    register_encoder(
        "hub",
        lambda weights, device: load_esmc(
            32, 2, 2, weights=weights, hub=("a/b", "data/w.pth"), device=device
        ),
    )
    assert load_encoder("hub", device="cpu").weights_sha256 == hash_of(tensors)
