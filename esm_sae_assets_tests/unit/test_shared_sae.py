"""The folder that an SAE is shared as: what is read is what was written, or one clear error."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig, write_checkpoint, write_config
from esm_sae.formats.manifest import Manifest, encode_manifest
from esm_sae.formats.shared_sae import is_shared_sae, read_shared_sae, write_shared_sae
from esm_sae.sae import load_checkpoint
from esm_sae.sharing import share_sae

D, L, K = 6, 12, 3

FORMS = {
    "topk": {},
    "tied": {"tied": True},
    "z-scored": {"normalize": True},
    "z-scored, ddof 1": {"normalize": True, "normalize_ddof": 1, "normalize_epsilon": 1e-6},
    "batchtopk": {"activation": "batchtopk"},
    "jumprelu": {"activation": "jumprelu"},
}


def random_checkpoint(**config):
    generator = np.random.default_rng(0)

    def array(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    encoder = array(D, L)
    return Checkpoint(
        encoder=encoder,
        decoder=np.ascontiguousarray(encoder.T) if config.get("tied") else array(L, D),
        latent_bias=array(L),
        pre_bias=array(D),
        config=SAEConfig(
            D,
            L,
            K,
            encoder="esmc_test",
            layer=2,
            pooling="mean",
            final_checkpoint="checkpoint_epoch_1.npy",
            **config,
        ),
        path=storage.Path("checkpoint_epoch_1.npy"),
        threshold=np.abs(array(L)) / 2 if "activation" in config else None,
    )


def train(folder, checkpoint):
    """Write a checkpoint as a training does."""
    folder.mkdir()
    arrays = ("encoder", "decoder", "latent_bias", "pre_bias", "threshold")
    weights = {name: getattr(checkpoint, name) for name in arrays}
    write_checkpoint(folder / checkpoint.path, **weights, config=checkpoint.config)
    write_config(folder, checkpoint.config)
    return folder


def describe(folder):
    """Write the manifest of what a folder holds."""
    files = {
        path.name: {"sha256": storage.sha256_of(path), "bytes": path.stat().st_size}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    manifest = Manifest("sae_release", "0" * 64, {}, files, {})
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    write_shared_sae(folder, random_checkpoint())
    describe(folder)
    return folder


def change_config(folder, **change):
    """Change entries of the config, as someone would who knows of the manifest."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: each for name, each in content.items() if each is not ...}))
    describe(folder)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_shared_encodes_bit_for_bit_as_the_checkpoint(tmp_path, form):
    trained = train(tmp_path / "L12_k3", random_checkpoint(**FORMS[form]))
    product = share_sae(trained, tmp_path / "shared")
    one, other = load_checkpoint(trained), load_checkpoint(product.path)
    rows = np.random.default_rng(1).standard_normal((70, D)).astype(np.float32)
    for made, expected in zip(
        other.encode_and_reconstruct(rows), one.encode_and_reconstruct(rows), strict=True
    ):
        assert made.tobytes() == expected.tobytes()
    assert other.encode(rows).any()
    assert other.config == replace(one.config, final_checkpoint="")
    assert other.fingerprint == one.fingerprint


def test_the_tensors_are_named_as_the_checkpoints_and_float32(shared):
    checkpoint = random_checkpoint()
    tensors = load_file(shared / "sae.safetensors")
    assert {name: array.shape for name, array in tensors.items()} == {
        "enc/kernel": (D, L),
        "dec/kernel": (L, D),
        "lb_L": (L,),
        "pb_D": (D,),
    }
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(tensors["enc/kernel"], checkpoint.encoder)


def test_sharing_again_is_unchanged_and_elsewhere_the_same_bytes(tmp_path):
    trained = train(tmp_path / "L12_k3", random_checkpoint())
    first = share_sae(trained, tmp_path / "a")
    assert not first.unchanged
    assert share_sae(trained, tmp_path / "a").unchanged
    moved = shutil.copytree(trained, tmp_path / "elsewhere" / "L12_k3")
    second = share_sae(moved, tmp_path / "b")
    for path in sorted(first.path.iterdir()):
        assert path.read_bytes() == (second.path / path.name).read_bytes(), path.name


def test_the_weights_file_stands_for_its_folder(shared):
    assert is_shared_sae(shared / "sae.safetensors")
    assert read_shared_sae(shared / "sae.safetensors").config == read_shared_sae(shared).config


def test_the_card_may_be_edited_and_files_be_put_beside(shared):
    (shared / "README.md").write_text("mine")
    (shared / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert read_shared_sae(shared).config.k == K


def test_the_config_that_is_hashed_is_the_one_that_is_used(shared, monkeypatch):
    path, original = shared / "config.json", storage.read_bytes

    def swapped_after_reading(file):
        content = original(file)
        if storage.Path(file) == path:
            path.write_text(path.read_text().replace('"layer": 2', '"layer": 3'))
        return content

    monkeypatch.setattr(storage, "read_bytes", swapped_after_reading)
    assert read_shared_sae(shared).config.layer == 2
    assert '"layer": 3' in path.read_text()


def test_a_training_folder_is_none(tmp_path):
    assert not is_shared_sae(train(tmp_path / "L12_k3", random_checkpoint()))
    assert not is_shared_sae(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("[")
    assert not is_shared_sae(tmp_path)


@pytest.mark.parametrize("name", ["sae.safetensors", "config.json", "manifest.json"])
def test_a_missing_file_is_named(shared, name):
    (shared / name).unlink()
    assert is_shared_sae(shared)
    with pytest.raises(InputError, match=f"shared: incomplete, it has no {name}; share it again"):
        load_checkpoint(shared)


@pytest.mark.parametrize(
    ("name", "by"), [("sae.safetensors", "config.json"), ("config.json", "manifest.json")]
)
def test_a_flipped_bit_is_named_wherever_it_is(shared, name, by):
    whole = (shared / name).read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        content = bytearray(whole)
        content[at] ^= 1
        (shared / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: is not the file that was .* in {by}"):
            read_shared_sae(shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "is of format version 2, this release reads 1; update esm-sae"),
        ({"format_version": True}, "is of format version True"),
        ({"model_type": "esmc_sae"}, "its model_type is not esm_sae"),
        ({"temperature": 1}, "has an entry 'temperature' that is not known; update esm-sae"),
        ({"k": ...}, "has no k; share it again"),
        ({"sae_sha256": ...}, "has no sae_sha256"),
        ({"k": "3"}, "its k is '3'"),
        ({"k": 13}, "k is 13, expected 1 to L = 12"),
        ({"normalize": "no"}, "its normalize is 'no'"),
        ({"normalize_epsilon": float("inf")}, "its normalize_epsilon is inf"),
        ({"normalize_ddof": D}, "normalize_ddof of 6 .* cannot z-score a row of width 6"),
        ({"layer": [1]}, r"its layer is \[1\]"),
        ({"training": "x" * 99}, r"its training is 'x+\.\.\.; share"),
        ({"versions": {"jax": 1}}, "its versions is {'jax': 1}"),
        ({"width": D + 1}, "weights are for D=6, L=12, but config.json records D=7"),
        ({"activation": "jumprelu"}, "its activation is 'jumprelu', but it holds no threshold_L"),
        ({"activation": "relu"}, "its activation is 'relu'; known are topk"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused(shared, change, message):
    change_config(shared, **change)
    with pytest.raises(InputError, match=message):
        read_shared_sae(shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc/kernel": None}, "has no enc/kernel"),
        ({"dec/kernel": np.zeros((D, L), np.float32)}, r"decoder has shape \(6, 12\)"),
        ({"lb_L": np.full(L, np.nan, np.float32)}, "latent_bias holds NaN or infinity"),
        ({"pb_D": np.zeros(D, np.float16)}, "pb_D is F16, expected F32"),
        ({"threshold_L": np.ones(L, np.float32)}, "'topk', but it holds a threshold_L"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(shared, change, message):
    path = shared / "sae.safetensors"
    tensors = load_file(path) | change
    save_file({name: each for name, each in tensors.items() if each is not None}, path)
    change_config(shared, sae_sha256=storage.sha256_of(path))
    with pytest.raises(InputError, match=message):
        read_shared_sae(shared)


def test_what_is_no_safetensors_file_is_refused(shared):
    path = shared / "sae.safetensors"
    path.write_bytes(b"\x80\x04 a pickle")
    change_config(shared, sae_sha256=storage.sha256_of(path))
    with pytest.raises(InputError, match="not a safetensors file"):
        read_shared_sae(shared)


def test_an_argument_that_contradicts_the_config_is_refused(shared):
    assert load_checkpoint(shared, k=K).config.k == K
    with pytest.raises(InputError, match="was trained with k = 3, not 4"):
        load_checkpoint(shared, k=4)
    with pytest.raises(InputError, match="was trained with normalize = False"):
        load_checkpoint(shared, normalize=True)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@given(change=st.dictionaries(st.sampled_from([*SAEConfig(1, 1, 1).__dict__, "x"]), _JSON))
def test_any_config_is_read_or_refused(tmp_path_factory, change):
    folder = tmp_path_factory.mktemp("fuzzed")
    write_shared_sae(folder, random_checkpoint())
    try:
        change_config(folder, **change)
    except UnicodeEncodeError:
        # Half of a character cannot be in a file.
        return
    try:
        found = read_shared_sae(folder).config
    except InputError:
        return
    assert (found.width, found.latent_dim) == (D, L)
    assert 1 <= found.k <= L
