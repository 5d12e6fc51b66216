"""SAEs in the files of Biohub's: read, written, and what is refused, against NumPy."""

import json
import re
from dataclasses import asdict, replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from esm_sae import export_biohub
from esm_sae.errors import InputError
from esm_sae.formats.biohub import suggested_name, write_biohub
from esm_sae.formats.checkpoint import SAEConfig, write_checkpoint, write_config
from esm_sae.formats.sae_files import read_sae
from esm_sae.sae import load_checkpoint

D, L, K, LAYER = 10, 32, 4, 3


@pytest.fixture
def tensors():
    generator = np.random.default_rng(0)
    shapes = {"W_enc": (D, L), "W_dec": (L, D), "b_dec": (D,), "idf": (L,), "max": (L,)}
    return {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


@pytest.fixture
def write(tmp_path, tensors):
    """Return a function that writes a folder as Biohub's; what is None is left out."""

    def made(name="sae-of-biohub", *, layers=(LAYER,), tensors=tensors, **config):
        folder = tmp_path / name
        folder.mkdir()
        recorded = {
            "model_type": "esmc_sae",
            "architectures": ["SomeModel"],
            "d_model": D,
            "codebook_dim": L,
            "k": K,
            "available_layers": list(layers),
            "transformers_version": "4.48.1",
        } | config
        known = {key: value for key, value in recorded.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(known))
        for layer in layers:
            save_file(tensors, folder / f"layer_{layer}.safetensors")
        return folder

    return made


@pytest.fixture
def rows():
    return 3 * np.random.default_rng(1).standard_normal((50, D)).astype(np.float32) + 1


def theirs(tensors, rows):
    """Return Biohub's activations, its reconstruction of z, and that of x, in float64."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = rows.astype(np.float64)
    mean = x.mean(1, keepdims=True)
    divisor = np.sqrt(((x - mean) ** 2).sum(1, keepdims=True) / (D - 1)) + 1e-5
    pre = np.maximum(((x - mean) / divisor - weights["b_dec"]) @ weights["W_enc"], 0)
    activations = np.zeros_like(pre)
    for row, values in zip(activations, pre, strict=True):
        kept = np.argsort(-values)[:K]
        row[kept] = values[kept]
    z = activations @ weights["W_dec"] + weights["b_dec"]
    return activations, z, z * divisor + mean


unknown_encoder = pytest.mark.filterwarnings("ignore:.*does not tell encoder:UserWarning")


@unknown_encoder
@pytest.mark.parametrize("named", ["folder", "file"])
def test_it_encodes_and_reconstructs_as_theirs(write, tensors, rows, named):
    folder = write()
    sae = load_checkpoint(folder if named == "folder" else folder / f"layer_{LAYER}.safetensors")
    activations, z, x = theirs(tensors, rows)
    np.testing.assert_allclose(sae.encode(rows), activations, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sae.decode(activations), z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(rows), x, rtol=1e-5, atol=2e-5)
    assert sae.config == SAEConfig(
        D,
        L,
        K,
        normalize=True,
        normalize_ddof=1,
        latent_bias=False,
        layer=LAYER,
        pooling="residue",
    )


@unknown_encoder
@pytest.mark.parametrize("type_", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_floating_point_becomes_float32(write, tensors, type_):
    stored = {name: tensor.astype(type_) for name, tensor in tensors.items()}
    checkpoint = read_sae(write(tensors=stored))
    assert checkpoint.encoder.dtype == np.float32
    np.testing.assert_array_equal(checkpoint.encoder, stored["W_enc"].astype(np.float32))
    np.testing.assert_array_equal(checkpoint.pre_bias, stored["b_dec"].astype(np.float32))


def test_what_only_scales_the_display_may_be_missing_or_infinite(write, tensors):
    bare = {name: tensors[name] for name in ("W_enc", "W_dec", "b_dec")}
    never_fired = tensors | {"idf": np.full(L, np.inf, np.float32)}
    for number, stored in enumerate((bare, never_fired)):
        checkpoint = read_sae(write(f"sae{number}", tensors=stored))
        np.testing.assert_array_equal(checkpoint.decoder, tensors["W_dec"])


@pytest.mark.parametrize(
    ("name", "width", "encoder"),
    [
        ("ESMC-300M-sae-layer3-k4-codebook32", 960, "esmc_300m"),
        ("esmc-600m-sae-layer3-k4-codebook32", 1152, "esmc_600m"),
        ("models--biohub--ESMC-6B-sae-layer3-k4/snapshots/abc", 2560, "esmc_6b"),
        ("mine", 960, "esmc_300m"),
        ("mine", 1152, "esmc_600m"),
        ("mine", 2560, "esmc_6b"),
        ("mine", D, "unknown"),
    ],
)
def test_the_encoder_is_told_by_the_name_or_the_width(write, tmp_path, name, width, encoder):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    wide = {
        "W_enc": np.ones((width, L), np.float32),
        "W_dec": np.ones((L, width), np.float32),
        "b_dec": np.ones(width, np.float32),
    }
    checkpoint = read_sae(write(name, tensors=wide, d_model=width))
    assert checkpoint.config.encoder == encoder
    assert checkpoint.unknown == (("encoder",) if encoder == "unknown" else ())


def test_of_several_layers_one_is_chosen(write):
    folder = write(layers=(3, 12, 30))
    with pytest.raises(InputError, match=r"layer_3\.\w+, layer_12\.\w+, layer_30\.safetensors"):
        read_sae(folder)
    assert read_sae(folder / "layer_12.safetensors").config.layer == 12


BAD_CONFIGS = {
    "model_type": ({"model_type": "esmc"}, "model_type is not 'esmc_sae'"),
    "width": ({"d_model": D + 1}, re.escape("W_enc has shape (10, 32), by config.json")),
    "no width": ({"d_model": None}, "d_model is None, expected a number above 0"),
    "true": ({"codebook_dim": True}, "codebook_dim is True"),
    "k": ({"k": L + 1}, "k is 33, expected 1 to codebook_dim = 32"),
    "layer": ({"available_layers": [4, 5]}, "has the layers 4, 5, not 3"),
    "layers": ({"available_layers": "3"}, "available_layers is no list"),
    "updates": ({"use_residual_update_instead_of_states": True}, "what a block adds"),
    "entry": ({"esm_sae": {"width": "wide"}}, "entry 'esm_sae' is not of this SAE"),
    "entry of another": (
        {"esm_sae": asdict(SAEConfig(D, L, K + 1, layer=LAYER))},
        "entry 'esm_sae' is not of this SAE",
    ),
    "entry of a layer": (
        {"esm_sae": asdict(SAEConfig(D, L, K, layer=LAYER + 1))},
        "records layer 4 of it",
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_does_not_fit_is_refused(write, case):
    config, message = BAD_CONFIGS[case]
    with pytest.raises(InputError, match=message):
        read_sae(write(**config))


def test_states_are_read_where_the_flag_says_so(write):
    assert read_sae(write(use_residual_update_instead_of_states=False)).config.layer == LAYER


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ESMC-300M-sae-mlp-k64-codebook131072", "what a block adds"),
        ("models--biohub--ESMC-300M-SAE-MLP-k64/snapshots/abc", "what a block adds"),
        ("ESMC-600M-sae-layer3-k4", "tells esmc_600m, whose rows are 1152 wide"),
    ],
)
def test_a_name_that_tells_of_another_sae_is_refused(write, tmp_path, name, message):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match=message):
        read_sae(write(name))


def test_a_name_that_contradicts_the_recorded_encoder_is_refused(write, tensors):
    wide = {
        "W_enc": np.ones((960, L), np.float32),
        "W_dec": np.ones((L, 960), np.float32),
        "b_dec": np.ones(960, np.float32),
    }
    ours = asdict(SAEConfig(960, L, K, layer=LAYER, encoder="esmc_300m_untrained"))
    folder = write("ESMC-300M-sae-layer3-k4", tensors=wide, d_model=960, esm_sae=ours)
    with pytest.raises(InputError, match="records esmc_300m_untrained"):
        read_sae(folder)


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


BAD_TENSORS = {
    "missing": (without("b_dec"), "has no tensor b_dec; it holds W_dec, W_enc"),
    "extra": (lambda tensors: tensors | {"b_enc": tensors["idf"]}, "has a tensor b_enc"),
    "shape": (lambda tensors: tensors | {"max": tensors["b_dec"]}, "max has shape"),
    "nan": (
        lambda tensors: tensors | {"b_dec": np.full(D, np.nan, np.float32)},
        "b_dec holds NaN or infinity",
    ),
    "integers": (
        lambda tensors: tensors | {"b_dec": np.ones(D, np.int32)},
        "b_dec is of torch.int32, expected floating-point",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused(write, tensors, case):
    change, message = BAD_TENSORS[case]
    with pytest.raises(InputError, match=message):
        read_sae(write(tensors=change(tensors)))


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"PK\x03\x04 no tensors"])
def test_a_damaged_file_is_refused(write, content):
    folder = write()
    (folder / f"layer_{LAYER}.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        read_sae(folder)


def test_a_file_that_breaks_off_is_refused(write):
    folder = write()
    file = folder / f"layer_{LAYER}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="not a safetensors file"):
        read_sae(file)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not valid JSON"), ("[1]", "model_type is not")]
)
def test_a_damaged_config_is_refused(write, content, message):
    folder = write()
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_sae(folder)


def test_missing_files_are_named(write):
    folder = write()
    (folder / "config.json").rename(folder / "other.json")
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read_sae(folder)
    (folder / "other.json").rename(folder / "config.json")
    (folder / f"layer_{LAYER}.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no layer_N\.safetensors"):
        read_sae(folder)
    with pytest.raises(InputError, match=r"layer_4\.safetensors: no such file"):
        read_sae(folder / "layer_4.safetensors")


def test_options_that_contradict_the_files_are_refused(write):
    folder = write()
    assert read_sae(folder, k=K, normalize=True).config.k == K
    with pytest.raises(InputError, match="was trained with k = 4, not 5"):
        read_sae(folder, k=5)
    with pytest.raises(InputError, match="normalize = True"):
        read_sae(folder, normalize=False)


OURS = SAEConfig(
    D,
    L,
    K,
    normalize=True,
    normalize_ddof=1,
    latent_bias=False,
    project="mine",
    encoder="esmc_demo",
    encoder_note="small",
    weights_sha256="1" * 64,
    layer=LAYER,
    pooling="residue",
    data_fingerprint="2" * 64,
    seed=7,
    epochs=5,
    fvu=0.25,
    final_checkpoint="checkpoint_epoch_5.npy",
    training={"rows": 100},
    versions={"jax": "0"},
)


@pytest.fixture
def ours(tmp_path, tensors):
    """Return a function that writes a training folder of ours, its config changed."""

    def made(*, latent_bias=0.0, threshold=None, **changes):
        folder = tmp_path / "ours"
        config = replace(OURS, **changes)
        write_checkpoint(
            folder / config.final_checkpoint,
            encoder=tensors["W_enc"],
            decoder=tensors["W_dec"],
            latent_bias=np.full(L, latent_bias),
            pre_bias=tensors["b_dec"],
            threshold=threshold,
            config=config,
        )
        write_config(folder, config)
        return folder

    (tmp_path / "ours").mkdir()
    return made


def test_from_ours_to_theirs_and_back_nothing_is_lost(ours, tensors, rows, tmp_path):
    folder = ours()
    product = write_biohub(read_sae(folder), tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / f"layer_{LAYER}.safetensors")
    assert stored.keys() == {"W_enc", "W_dec", "b_dec", "idf", "max"}
    for name in ("W_enc", "W_dec", "b_dec"):
        np.testing.assert_array_equal(stored[name], tensors[name])
    assert (stored["idf"] == 1).all()
    assert (stored["max"] == 1).all()
    recorded = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert {name: recorded[name] for name in recorded if name != "esm_sae"} == {
        "model_type": "esmc_sae",
        "d_model": D,
        "codebook_dim": L,
        "k": K,
        "available_layers": [LAYER],
    }
    again = load_checkpoint(product.path)
    assert again.config == replace(OURS, final_checkpoint="")
    one = load_checkpoint(folder)
    np.testing.assert_allclose(again.encode(rows), one.encode(rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(again.reconstruct(rows), one.reconstruct(rows), rtol=1e-5)
    activations, _, x = theirs(stored, rows)
    np.testing.assert_allclose(one.encode(rows), activations, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.reconstruct(rows), x, rtol=1e-5, atol=2e-5)


@unknown_encoder
def test_from_theirs_to_ours_and_back_the_weights_are_the_same(write, tensors, tmp_path):
    first = read_sae(write())
    write_checkpoint(
        tmp_path / "alone.npy",
        encoder=first.encoder,
        decoder=first.decoder,
        latent_bias=first.latent_bias,
        pre_bias=first.pre_bias,
        config=first.config,
    )
    alone = read_sae(tmp_path / "alone.npy")
    # A file alone tells how rows are z-scored, not what they are.
    assert alone.config.z_score == first.config.z_score
    whole = replace(alone, config=first.config)
    write_biohub(whole, tmp_path / "again")
    stored = load_file(tmp_path / "again" / f"layer_{LAYER}.safetensors")
    for name in ("W_enc", "W_dec", "b_dec"):
        np.testing.assert_array_equal(stored[name], tensors[name])


REFUSED = {
    "activation": (
        {"activation": "jumprelu", "threshold": np.ones(L)},
        "its activation is 'jumprelu', and theirs is TopK",
    ),
    "plain rows": ({"normalize": False}, "it has normalize = False; train with --normalize"),
    "ddof": ({"normalize_ddof": 0}, "with ddof 0 and epsilon 1e-05; train"),
    "epsilon": ({"normalize_epsilon": 1e-6}, "epsilon 1e-06"),
    "bias": ({"latent_bias": 0.1}, "have a bias, and theirs have none"),
    "layer": ({"layer": None}, "its layer is not known"),
    "proteins": ({"pooling": "mean"}, "its rows are 'mean', and theirs are residues"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_theirs_cannot_express_is_refused(ours, tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=f"cannot be an SAE of Biohub's form: .*{message}"):
        write_biohub(read_sae(ours(**changes)), tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_a_tied_sae_is_written_with_its_decoder(tmp_path, tensors):
    config = replace(OURS, tied=True)
    content = {
        "encoder": tensors["W_enc"],
        "decoder": tensors["W_enc"].T,
        "latent_bias": np.zeros(L),
        "pre_bias": tensors["b_dec"],
    }
    (tmp_path / "ours").mkdir()
    write_checkpoint(tmp_path / "ours" / config.final_checkpoint, **content, config=config)
    write_config(tmp_path / "ours", config)
    write_biohub(read_sae(tmp_path / "ours"), tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / f"layer_{LAYER}.safetensors")
    np.testing.assert_array_equal(stored["W_dec"], tensors["W_enc"].T)


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("esmc_300m", "ESMC-300M-sae-layer3-k4-codebook32"),
        ("esmc_6b", "ESMC-6B-sae-layer3-k4-codebook32"),
        ("esmc_demo", "esmc_demo-sae-layer3-k4-codebook32"),
    ],
)
def test_the_suggested_name_is_like_theirs(encoder, name):
    assert suggested_name(replace(OURS, encoder=encoder)) == name


def test_what_is_written_others_can_read_and_a_changed_byte_is_found(ours, tmp_path):
    folder = write_biohub(read_sae(ours()), tmp_path / "out").path
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(set(modes.values())) == 1, modes
    file = folder / f"layer_{LAYER}.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"safetensors: is not the file that manifest.json besi"):
        read_sae(folder)


def test_the_command_writes_the_same_bytes_and_says_so(ours, tmp_path, capsys):
    line = ["--checkpoint", str(ours()), "--output", str(tmp_path / "theirs"), "--quiet"]
    assert export_biohub.main(line) == 0
    printed = capsys.readouterr().out
    assert "esmc_demo, layer 3, k = 4, 32 latents\n" in printed
    assert "a name like theirs: esmc_demo-sae-layer3-k4-codebook32" in printed
    product = write_biohub(read_sae(tmp_path / "ours"), tmp_path / "library")
    for name in product.manifest.files:
        same = [(tmp_path / folder / name).read_bytes() for folder in ("theirs", "library")]
        assert same[0] == same[1]
    assert export_biohub.main(line) == 0
    assert "(unchanged)" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(ours, tmp_path, capsys):
    line = ["--checkpoint", str(ours(normalize=False)), "--output", str(tmp_path / "theirs")]
    assert export_biohub.main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
