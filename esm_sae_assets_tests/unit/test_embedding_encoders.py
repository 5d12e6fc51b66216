import functools
import itertools
import logging
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from esm_sae.data import bundled_encoder, bundled_fasta
from esm_sae.embedding import encoder_names, load_encoder, register_encoder
from esm_sae.embedding.batching import default_batch_tokens
from esm_sae.embedding.esmc import load_esmc
from esm_sae.embedding.options import POOLINGS
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta

ToyBackbone = runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))["ToyBackbone"]
register_encoder(
    "tiny", lambda weights, device: load_esmc(32, 2, 2, weights=weights, hub=None, device=device)
)
load_cpu = functools.cache(functools.partial(load_encoder, device="cpu"))


@pytest.fixture(scope="module")
def tiny():
    return load_cpu("tiny")


@pytest.fixture(scope="module")
def proteins():
    """Real proteins of very unequal lengths, in file order."""
    found = {}
    for record in itertools.islice(read_fasta(bundled_fasta()), 1500):
        found.setdefault(min(len(record.sequence) // 40, 12), record.sequence)
    chosen = [found[number] for number in (3, 0, 12, 1, 6)]
    assert max(map(len, chosen)) > 8 * min(map(len, chosen))
    return chosen


def relative_error(rows, expected):
    norms = np.linalg.norm(expected, axis=1)
    return (np.linalg.norm(rows - expected, axis=1) / norms).max()


def states_of_esm(encoder, sequence):
    """Return what ESMC.forward itself gives: embeddings and hidden states of the residues."""
    model = encoder.backbone.model
    with torch.inference_mode():
        output = model(sequence_tokens=model._tokenize([sequence]))
    return output.embeddings[0, 1:-1].numpy(), output.hidden_states[:, 0, 1:-1].numpy()


@pytest.mark.parametrize("name", ["tiny", "esmc_demo"])
def test_layers_equal_those_of_esm(name, proteins):
    encoder = load_cpu(name)
    sequence = proteins[0]
    embeddings, hidden = states_of_esm(encoder, sequence)
    embed = functools.partial(encoder.embed, [sequence], pooling="residue")
    np.testing.assert_allclose(embed(layer=encoder.blocks), embeddings, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(embed(layer=-1), embed(layer=encoder.blocks))
    for layer in range(1, encoder.blocks):
        np.testing.assert_allclose(embed(layer=layer), hidden[layer - 1], rtol=1e-5, atol=1e-4)


def test_layer_0_is_the_token_embeddings(tiny):
    ids = tiny.backbone.vocabulary.encode("MKV").ids[1:-1]
    expected = tiny.backbone.model.embed.weight[ids].detach().numpy()
    np.testing.assert_array_equal(tiny.embed(["MKV"], pooling="residue", layer=0), expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_no_sequences_give_no_rows(tiny, pooling):
    assert tiny.embed([], pooling=pooling).shape == (0, 32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", lambda states: states[1:-1].mean(axis=0)),
        ("max", lambda states: states[1:-1].max(axis=0)),
        ("last", lambda states: states[-2]),
        ("bos", lambda states: states[0]),
    ],
)
def test_every_pooling_is_of_the_states_that_esm_gives(tiny, proteins, pooling, expected):
    model = tiny.backbone.model
    with torch.inference_mode():
        output = model(sequence_tokens=model._tokenize(proteins[:1]))
    rows = tiny.embed(proteins[:1], pooling=pooling)
    wanted = expected(output.embeddings[0].numpy())
    assert relative_error(rows, wanted[None]) < 1e-5


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("", "sequence 2 of 3: empty; remove it"),
        ("MK-V", "sequence 2 of 3: '-' at residue 3 is a gap"),
        ("MKV*", r"sequence 2 of 3: '\*' at residue 4 is a stop"),
        ("MK1", "sequence 2 of 3: '1' at residue 3 is not a residue letter"),
    ],
)
def test_a_sequence_that_cannot_be_embedded_is_named(tiny, sequence, message):
    with pytest.raises(InputError, match=message):
        tiny.embed(["MK", sequence, "ML"])


def test_lower_case_is_accepted(tiny):
    np.testing.assert_array_equal(tiny.embed(["mkvl"]), tiny.embed(["MKVL"]))


def test_a_gpu_gets_larger_batches_than_a_cpu(tiny):
    assert tiny.default_batch_tokens == default_batch_tokens("cpu") < default_batch_tokens("cuda")


def test_the_demo_encoder_is_the_bundled_one_and_says_what_it_is():
    demo = load_cpu("esmc_demo")
    assert demo.note == "a small demonstration model"
    assert (demo.name, demo.width, demo.blocks) == ("esmc_demo", 256, 3)
    assert sum(p.numel() for p in demo.backbone.model.parameters()) == 2_659_904
    assert bundled_encoder().stat().st_size < 8_000_000
    again = load_encoder("esmc_demo", weights=bundled_encoder(), device="cpu")
    assert again.weights_sha256 == demo.weights_sha256
    assert again.note == demo.note


def test_its_untrained_copy_says_so_and_is_the_same_everywhere():
    untrained = load_cpu("esmc_demo_untrained")
    assert untrained.note == "untrained: seeded random weights"
    assert untrained.weights_sha256 == (
        "16914d845d4310ee1936027fd5f41cdfc1ba6c4250131199f64a0341f6fce30b"
    )


def test_a_registered_encoder_is_one_like_the_others():
    toy = load_encoder("toy", device="cpu")
    assert "toy" in encoder_names()
    assert (toy.name, toy.note, toy.layer_number(-1)) == ("toy", "a toy", 1)
    states = ToyBackbone().table[toy.backbone.vocabulary.encode("MK").ids]
    expected = states[1:-1].mean(dim=0) + states.mean(dim=0)
    np.testing.assert_allclose(toy.embed(["MK"])[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "esmc_3b"}, "encoder 'esmc_3b': expected one of esmc_300m, esmc_600m"),
        ({"name": "toy", "precision": "int8"}, "precision 'int8': expected one of auto"),
        ({"name": "toy", "device": "abacus"}, "device 'abacus': not to be had here"),
        ({"name": "toy", "device": "cuda:99"}, "device 'cuda:99': not to be had here"),
    ],
)
def test_what_cannot_be_loaded_is_named(options, message):
    with pytest.raises(InputError, match=message):
        load_encoder(**options)


@pytest.mark.parametrize("layer", [-2, 3])
def test_a_layer_that_is_not_there_is_an_error(tiny, layer):
    with pytest.raises(InputError, match=f"layer {layer}: tiny has layers 0 to 2"):
        tiny.embed(["MK"], layer=layer)


@pytest.mark.parametrize("batch_tokens", [0, -1])
def test_a_batch_without_tokens_is_an_error(tiny, batch_tokens):
    with pytest.raises(InputError, match=f"batch_tokens {batch_tokens}: expected 1 or more"):
        tiny.embed(["MK"], batch_tokens=batch_tokens)


@pytest.mark.parametrize(
    ("capabilities", "warned"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True}, False),
        ({"amx_bf16": True}, False),
        ({"bf16": True}, False),
        (None, False),
    ],
)
def test_bfloat16_on_a_cpu_without_it_is_warned_of(monkeypatch, caplog, capabilities, warned):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with caplog.at_level(logging.WARNING, "esm_sae"):
        load_encoder("toy", device="cpu")
        load_encoder("toy", device="cpu", precision="float32")
        assert caplog.messages == []
        load_encoder("toy", device="cpu", precision="bfloat16")
    expected = ["this CPU has no instructions for bfloat16; float32 is faster on it"]
    assert caplog.messages == (expected if warned else [])


def test_an_unknown_pooling_is_an_error(tiny):
    with pytest.raises(InputError, match="pooling 'median'"):
        tiny.embed(["MK"], pooling="median")
