import json
import pickle
from collections import OrderedDict
from dataclasses import asdict

import numpy as np
import pytest

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import (
    SAEConfig,
    checkpoint_name,
    read_checkpoint,
    read_config,
    write_checkpoint,
    write_config,
)
from esm_sae.formats.npy_dict import load_npy_dict

D, L = 4, 6


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return {
        "encoder": generator.standard_normal((D, L), np.float32),
        "decoder": generator.standard_normal((L, D), np.float32),
        "latent_bias": generator.standard_normal(L, np.float32),
        "pre_bias": generator.standard_normal(D, np.float32),
    }


def nested(weights):
    return {
        "enc": {"kernel": weights["encoder"]},
        "dec": {"kernel": weights["decoder"]},
        "lb_L": weights["latent_bias"],
        "pb_D": weights["pre_bias"],
    }


def flat(weights):
    return {
        "enc/kernel": weights["encoder"],
        "dec/kernel": weights["decoder"],
        "lb_L": weights["latent_bias"],
        "pb_D": weights["pre_bias"],
    }


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
    return path


def save_pickle(path, pickled):
    """Write bytes as the pickle of a NumPy object array's file."""
    save(path, {})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 1] + pickled)
    return path


def assert_weights(checkpoint, weights):
    for name, array in weights.items():
        found = getattr(checkpoint, name)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, array)


SPELLINGS = {
    "nested": nested,
    "flat": flat,
    "params": lambda weights: {"params": nested(weights)},
    "params, flat": lambda weights: {"params": flat(weights)},
    "flat params": lambda weights: {f"params/{name}": a for name, a in flat(weights).items()},
    "ordered": lambda weights: OrderedDict(nested(weights)),
    "with config": lambda weights: nested(weights) | {"config": {"topk": 3}},
    "params with config": lambda weights: {"params": nested(weights), "config": {"topk": 3}},
    "float64": lambda weights: {n: a.astype(np.float64) for n, a in flat(weights).items()},
    "Fortran order": lambda weights: {n: np.asfortranarray(a) for n, a in flat(weights).items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_read(tmp_path, weights, spelling):
    path = save(tmp_path / "L6_k3" / "w.npy", SPELLINGS[spelling](weights))
    checkpoint = read_checkpoint(path)
    assert_weights(checkpoint, weights)
    assert (checkpoint.config.width, checkpoint.config.latent_dim, checkpoint.config.k) == (D, L, 3)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(tmp_path, weights, protocol):
    pickled = pickle.dumps(np.array(nested(weights), dtype=object), protocol=protocol)
    assert_weights(read_checkpoint(save_pickle(tmp_path / "w.npy", pickled), k=2), weights)


def test_names_of_older_numpy_are_read(tmp_path, weights):
    pickled = pickle.dumps(np.array(nested(weights), dtype=object), protocol=2)
    older = pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert older != pickled
    assert_weights(read_checkpoint(save_pickle(tmp_path / "w.npy", older), k=2), weights)


def test_a_tied_checkpoint_has_the_encoder_transposed_as_decoder(tmp_path, weights):
    content = nested(weights)
    del content["dec"]
    checkpoint = read_checkpoint(save(tmp_path / "w.npy", content), k=2)
    np.testing.assert_array_equal(checkpoint.decoder, weights["encoder"].T)
    assert checkpoint.decoder.flags.c_contiguous


def test_writing_gives_the_layout_of_the_original(tmp_path, weights):
    path = tmp_path / "L6_k2" / checkpoint_name(3)
    write_checkpoint(path, **weights)
    content = np.load(path, allow_pickle=True).item()
    assert {"enc", "dec", "lb_L", "pb_D"} == set(content)
    np.testing.assert_array_equal(content["enc"]["kernel"], weights["encoder"])
    assert_weights(read_checkpoint(path), weights)
    again = tmp_path / "again.npy"
    write_checkpoint(again, **weights)
    assert again.read_bytes() == path.read_bytes()


class Malicious:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


ATTACKS = {
    "system": lambda mark: Malicious(__import__("os").system, f"touch {mark}"),
    "eval": lambda mark: Malicious(eval, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Malicious(open, str(mark), "w"),
    "getattr": lambda mark: Malicious(getattr, "", "upper"),
    "numpy that is no array": lambda mark: Malicious(np.save, str(mark), np.zeros(1)),
    "a class": lambda mark: SAEConfig(1, 1, 1),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(tmp_path, weights, attack):
    mark = tmp_path / "mark"
    content = nested(weights) | {"config": ATTACKS[attack](mark)}
    path = save(tmp_path / "w.npy", content)
    with pytest.raises(InputError, match=r"w\.npy: refused, its pickle names"):
        load_npy_dict(path)
    assert not mark.exists()


def test_a_pickle_below_an_array_is_restricted_too(tmp_path):
    mark = tmp_path / "mark"
    inner = np.array([ATTACKS["open"](mark)], dtype=object)
    path = save(tmp_path / "w.npy", {"enc": {"kernel": inner}})
    with pytest.raises(InputError, match="refused"):
        load_npy_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .npy file"),
        (b"PK\x03\x04 a zip archive", "not a .npy file"),
        (b"\x93NUMPY\x01\x00", "not a .npy file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "w.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_npy_dict(path)


def test_damaged_and_other_contents_are_refused(tmp_path, weights):
    path = save(tmp_path / "w.npy", nested(weights))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        load_npy_dict(path)
    np.save(path, np.zeros((2, 2)))
    with pytest.raises(InputError, match="holds a plain array, expected a dictionary"):
        load_npy_dict(path)
    with pytest.raises(InputError, match="holds a list, expected a dictionary"):
        load_npy_dict(save_pickle(path, pickle.dumps([1])))
    with pytest.raises(InputError, match="no such file"):
        load_npy_dict(tmp_path / "missing.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc/kernel": np.zeros(3)}, "enc/kernel has shape"),
        ({"dec/kernel": np.zeros((D, L))}, r"decoder has shape \(4, 6\), expected \(6, 4\)"),
        ({"lb_L": np.zeros(D)}, r"latent_bias has shape \(4,\), expected \(6,\)"),
        ({"pb_D": np.zeros(L)}, r"pre_bias has shape \(6,\), expected \(4,\)"),
        ({"pb_D": np.full(D, np.nan)}, "pre_bias holds NaN or infinity"),
        ({"pb_D": "text"}, "pb_D is not an array of numbers"),
        ({"lb_L": None}, r"latent_bias has shape \(1,\)"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, change, message):
    with pytest.raises(InputError, match=message):
        read_checkpoint(save(tmp_path / "w.npy", flat(weights) | change), k=2)


@pytest.mark.parametrize("missing", ["enc/kernel", "lb_L", "pb_D"])
def test_missing_weights_are_named(tmp_path, weights, missing):
    content = flat(weights)
    del content[missing]
    with pytest.raises(InputError, match=f"has no {missing}"):
        read_checkpoint(save(tmp_path / "w.npy", content), k=2)


@pytest.mark.parametrize("content", [{}, {"params": np.zeros(3)}, {"model": {"W": np.zeros(3)}}])
def test_a_dictionary_of_something_else_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="has no enc/kernel"):
        read_checkpoint(save(tmp_path / "w.npy", content), k=2)


def test_the_config_beside_the_file_comes_first(tmp_path, weights):
    folder = tmp_path / "L6_k5"
    path = save(folder / checkpoint_name(1), nested(weights) | {"config": {"topk": 4}})
    write_config(folder, SAEConfig(D, L, 3, encoder="esmc_300m", layer=30, pooling="mean"))
    checkpoint = read_checkpoint(path)
    assert (checkpoint.config.k, checkpoint.config.encoder) == (3, "esmc_300m")
    assert checkpoint.unknown == ()


def test_the_config_inside_comes_before_the_folders_name(tmp_path, weights):
    content = nested(weights) | {"config": {"topk": 4, "normalize": True, "tied": False}}
    checkpoint = read_checkpoint(save(tmp_path / "L6_k5" / "w.npy", content))
    assert (checkpoint.config.k, checkpoint.config.normalize) == (4, True)
    assert checkpoint.unknown == ("encoder, layer and pooling",)
    with pytest.raises(InputError, match="was trained with k = 4, not 5"):
        read_checkpoint(checkpoint.path, k=5)


def test_k_of_an_option_or_the_folders_name_and_what_is_then_unknown(tmp_path, weights):
    path = save(tmp_path / "L6_k5" / "w.npy", nested(weights))
    from_name = read_checkpoint(path)
    assert from_name.config.k == 5
    assert from_name.unknown == (
        "encoder, layer and pooling",
        "whether rows are normalised (assumed not)",
    )
    from_options = read_checkpoint(path, k=2, normalize=True)
    assert (from_options.config.k, from_options.config.normalize) == (2, True)
    assert from_options.unknown == ("encoder, layer and pooling",)


def test_when_nothing_tells_k_it_is_an_error_and_never_dense(tmp_path, weights):
    with pytest.raises(InputError, match="nothing tells k"):
        read_checkpoint(save(tmp_path / "plain" / "w.npy", nested(weights)))
    content = nested(weights) | {"config": {"topk": None}}
    with pytest.raises(InputError, match="topk = None"):
        read_checkpoint(save(tmp_path / "plain" / "w.npy", content))


@pytest.mark.parametrize("name", ["normalize", "tied"])
def test_a_flag_that_is_an_array_is_refused(tmp_path, weights, name):
    content = nested(weights) | {"config": {"topk": 3, name: np.ones(2)}}
    with pytest.raises(InputError, match=f"{name} that is neither true nor false"):
        read_checkpoint(save(tmp_path / "w.npy", content))


@pytest.mark.parametrize("k", [0, -1, L + 1])
def test_k_outside_1_to_l_is_refused(tmp_path, weights, k):
    with pytest.raises(InputError, match=f"k is {k}, expected 1 to L = {L}"):
        read_checkpoint(save(tmp_path / "w.npy", nested(weights)), k=k)


def test_options_that_contradict_the_config_are_refused(tmp_path, weights):
    path = save(tmp_path / checkpoint_name(1), nested(weights))
    write_config(tmp_path, SAEConfig(D, L, 3))
    with pytest.raises(InputError, match="was trained with k = 3, not 4"):
        read_checkpoint(path, k=4)
    with pytest.raises(InputError, match="normalize = False"):
        read_checkpoint(path, normalize=True)
    write_config(tmp_path, SAEConfig(D + 1, L, 3))
    with pytest.raises(InputError, match="not of one training"):
        read_checkpoint(path)
    write_config(tmp_path, SAEConfig(D, L, 3, activation="relu"))
    with pytest.raises(InputError, match="known are topk, batchtopk"):
        read_checkpoint(path)


def test_thresholds_and_the_activation_must_go_together(tmp_path, weights):
    threshold = np.full(L, 0.5, np.float32)
    config = SAEConfig(D, L, 3, activation="batchtopk")
    path = tmp_path / checkpoint_name(1)
    write_checkpoint(path, **weights, threshold=threshold, config=config)
    alone = read_checkpoint(path)
    assert (alone.config.activation, alone.config.k) == ("batchtopk", 3)
    np.testing.assert_array_equal(alone.threshold, threshold)
    write_config(tmp_path, SAEConfig(D, L, 3))
    with pytest.raises(InputError, match="'topk', but it holds a threshold_L"):
        read_checkpoint(path)
    write_config(tmp_path, config)
    write_checkpoint(path, **weights, threshold=-threshold, config=config)
    with pytest.raises(InputError, match="below 0"):
        read_checkpoint(path)
    write_checkpoint(path, **weights, config=config)
    with pytest.raises(InputError, match="'batchtopk', but it holds no threshold_L"):
        read_checkpoint(path)


def test_a_folder_is_read_by_the_name_in_its_config_and_not_by_the_latest(tmp_path, weights):
    for epoch in (9, 10, 100):
        shifted = weights | {"pre_bias": np.full(D, epoch, np.float32)}
        write_checkpoint(tmp_path / checkpoint_name(epoch), **shifted)
    with pytest.raises(InputError, match="holds 3 checkpoints and no config"):
        read_checkpoint(tmp_path, k=2)
    write_config(tmp_path, SAEConfig(D, L, 2, final_checkpoint=checkpoint_name(10)))
    assert read_checkpoint(tmp_path).pre_bias[0] == 10
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint_epoch"):
        read_checkpoint(tmp_path / "empty")


def test_config_round_trip_and_other_json(tmp_path):
    config = SAEConfig(D, L, 2, training={"lr": 0.1}, versions={"jax": "0.10"})
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    assert read_config(tmp_path / "nowhere") is None
    others = [{"k": 2}, [1], asdict(config) | {"more": 1}, asdict(config) | {"k": "2"}]
    for content in others:
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match="not the config of a training"):
            read_config(tmp_path)
