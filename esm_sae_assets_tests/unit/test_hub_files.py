"""SAEs named on the model hub, read from a cache as the hub's own package lays it out."""

import hashlib
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest

from esm_sae.analyze import main as analyze
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.hub_files import local_copy, parse_hub_path
from esm_sae.sae import load_checkpoint
from esm_sae.sharing import share_sae

D, L, K = 6, 12, 3
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of an empty cache that nothing is fetched into."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def put(cache, source, *, repository="org/name", revision="main", only=None):
    """Put a folder into the cache: blobs by hash, links of snapshots to them, a ref."""
    place = cache / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMITS[revision]
    for folder in (place / "blobs", place / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(COMMITS[revision])
    for path in source.iterdir():
        if only is None or path.name in only:
            blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copyfile(path, blob)
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def trained(folder, seed=0):
    generator = np.random.default_rng(seed)
    folder.mkdir()
    write_checkpoint(
        folder / "checkpoint_epoch_1.npy",
        encoder=generator.standard_normal((D, L)),
        decoder=generator.standard_normal((L, D)),
        latent_bias=np.zeros(L),
        pre_bias=np.zeros(D),
    )
    config = SAEConfig(D, L, K, pooling="mean", final_checkpoint="checkpoint_epoch_1.npy")
    write_config(folder, config)
    return folder


@pytest.fixture
def shared(tmp_path):
    return share_sae(trained(tmp_path / "L12_k3"), tmp_path / "shared").path


@pytest.mark.parametrize("name", ["hf://org/name", Path("hf://org/name"), "hf://org/name@main"])
def test_what_is_in_the_cache_is_read_from_there(cache, shared, name):
    put(cache, shared, only=["config.json", "sae.safetensors", "manifest.json"])
    sae, expected = load_checkpoint(name), load_checkpoint(shared)
    rows = np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)
    assert sae.encode(rows).tobytes() == expected.encode(rows).tobytes()
    assert sae.fingerprint == expected.fingerprint


def test_a_revision_names_its_own_files(cache, shared, tmp_path):
    other = share_sae(trained(tmp_path / "other", seed=1), tmp_path / "other_shared").path
    put(cache, shared)
    put(cache, other, revision="v1")
    found = {name: load_checkpoint(f"hf://org/name@{name}").fingerprint for name in COMMITS}
    assert found["main"] == load_checkpoint(shared).fingerprint
    assert found["v1"] == load_checkpoint(other).fingerprint
    assert load_checkpoint(f"hf://org/name@{COMMITS['v1']}").fingerprint == found["v1"]


def test_one_file_is_named_with_the_config_beside_it(cache, tmp_path):
    put(cache, trained(tmp_path / "L12_k3"))
    sae = load_checkpoint("hf://org/name/checkpoint_epoch_1.npy")
    assert (sae.config.k, sae.config.latent_dim) == (K, L)
    bare = put(cache, tmp_path / "L12_k3", repository="org/bare", only=["checkpoint_epoch_1.npy"])
    file = local_copy("hf://org/bare/checkpoint_epoch_1.npy")
    assert file == bare / "checkpoint_epoch_1.npy"


def test_what_is_not_cached_is_one_error_with_the_remedy(cache, shared):
    with pytest.raises(
        InputError, match=r"hf://org/name: config.json is not in the model hub's cache .* HF_HOME"
    ):
        load_checkpoint("hf://org/name")
    put(cache, shared, only=["config.json"])
    with pytest.raises(InputError, match=r"hf://org/name@a{40}: sae.safetensors is not in the"):
        load_checkpoint("hf://org/name")


def test_a_damaged_download_is_named(cache, shared):
    snapshot = put(cache, shared)
    blob = (snapshot / "sae.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match=r"sae\.safetensors: is not the file that was shared"):
        load_checkpoint("hf://org/name")


def test_a_repository_of_something_else_asks_for_a_file(cache, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "esmc_sae"}')
    put(cache, folder)
    with pytest.raises(InputError, match=r"name one file, such as hf://org/name/layer_23"):
        load_checkpoint("hf://org/name")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "there is no such repository; if it is private, log in"),
        ("GatedRepoError", "the repository is gated; accept its terms"),
        ("RevisionNotFoundError", "the repository has no revision v9; name another"),
        ("EntryNotFoundError", "the repository has no config.json; name another"),
    ],
)
def test_what_the_hub_answers_is_told(monkeypatch, error, message):
    kind = getattr(huggingface_hub.errors, error)

    def refuse(*_, **__):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match=rf"^hf://org/name@v9: {message}"):
        load_checkpoint("hf://org/name@v9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf://a/b", ("a/b", None, "")),
        ("hf:/a/b", ("a/b", None, "")),
        ("hf://a/b@v1.0/", ("a/b", "v1.0", "")),
        ("hf://a/b@refs%2Fpr%2F1/x/layer_2.npy", ("a/b", "refs/pr/1", "x/layer_2.npy")),
    ],
)
def test_a_name_on_the_hub(name, expected):
    assert parse_hub_path(name) == expected


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://a", "hf:///a/b", "hf://a/b@", "hf://a/b/../c", "hf://a/-b", "hf://a/b?x=1"],
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="names nothing on the model hub; expected hf://ORG/NAME"):
        local_copy(name)


def test_a_token_in_the_name_is_not_shown():
    with pytest.raises(InputError) as caught:
        local_copy("hf://me:hf_secret@org/name")
    assert "hf_secret" not in str(caught.value)


def test_the_commands_take_such_names(cache, write_clusters, tmp_path, capsys):
    clusters, _, _ = write_clusters(tmp_path / "in", {"Homo sapiens": 3}, width=D)
    line = ["--clusters", str(clusters), "--output", str(tmp_path / "out"), "--quiet"]
    assert analyze(["--checkpoint", "hf://org/name", *line]) == 2
    assert "error: hf://org/name: config.json is not in the model hub's" in capsys.readouterr().err
