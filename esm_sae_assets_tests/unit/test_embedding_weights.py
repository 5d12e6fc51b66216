import functools

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from esm_sae.embedding import load_encoder, register_encoder
from esm_sae.embedding.encoders import _from_hub
from esm_sae.embedding.esmc import load_esmc
from esm_sae.embedding.weights import fetch_weights, hash_of
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


REPOSITORIES = ("one/model", "other/model")


@pytest.fixture
def hub(monkeypatch):
    """Register an encoder of the hub's weights; return a function that says what the hub does."""

    def build(weights, device):
        hub = (REPOSITORIES, "data/w.pth")
        return load_esmc(32, 2, 2, weights=weights, hub=hub, device=device)

    register_encoder("hub", build)
    return functools.partial(monkeypatch.setattr, huggingface_hub, "hf_hub_download")


def test_without_the_hub_the_message_says_how_to_get_the_weights(hub):
    asked = []

    def offline(repository, file):
        asked.append((repository, file))
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    hub(offline)
    with pytest.raises(InputError) as caught:
        load_encoder("hub", device="cpu")
    assert asked == [(repository, "data/w.pth") for repository in REPOSITORIES]
    for part in (*REPOSITORIES, "data/w.pth", "--weights PATH", "HF_ENDPOINT", "HF_HOME"):
        assert part in str(caught.value)


def test_weights_of_the_hub_are_loaded_from_where_it_keeps_them(hub, tmp_path, tensors):
    torch.save(tensors, tmp_path / "w.pth")
    hub(lambda *_: str(tmp_path / "w.pth"))
    assert load_encoder("hub", device="cpu").weights_sha256 == hash_of(tensors)


def test_where_one_repository_has_nothing_the_other_is_asked(hub, tmp_path, tensors):
    torch.save(tensors, tmp_path / "w.pth")

    def gone(repository, _):
        if repository == REPOSITORIES[0]:
            raise OSError("404")
        return str(tmp_path / "w.pth")

    hub(gone)
    assert load_encoder("hub", device="cpu").weights_sha256 == hash_of(tensors)


@pytest.mark.parametrize("name", ["esmc_300m", "esmc_600m"])
def test_both_publishers_of_the_models_are_asked(monkeypatch, name):
    asked = []

    def offline(repository, file):
        asked.append(repository)
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    size = name.removeprefix("esmc_")
    with pytest.raises(InputError, match=f"esmc_{size}_2024_12_v0.pth"):
        fetch_weights(*_from_hub(name.replace("_", "-")))
    assert asked == [f"{owner}/esmc-{size}-2024-12" for owner in ("EvolutionaryScale", "biohub")]
