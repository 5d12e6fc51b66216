import functools
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from esm_sae.data import bundled_fasta
from esm_sae.embedding import encoder_names, load_encoder, register_encoder
from esm_sae.embedding.esmc import load_esmc
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


def test_nothing_beyond_the_layer_is_computed(tiny):
    ran = []
    model = tiny.backbone.model
    watched = {
        "block 0": model.transformer.blocks[0],
        "block 1": model.transformer.blocks[1],
        "norm": model.transformer.norm,
        "head": model.sequence_head,
    }
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in watched.items()
    ]
    tiny.embed(["MKV"], layer=1)
    assert ran == ["block 0"]
    ran.clear()
    tiny.embed(["MKV"], layer=2)
    assert ran == ["block 0", "block 1", "norm"]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "pooling"), [("tiny", "mean"), ("tiny", "residue"), ("esmc_demo", "residue")]
)
def test_any_batching_equals_one_at_a_time(name, pooling, proteins):
    encoder = load_cpu(name)
    one_at_a_time = np.concatenate([encoder.embed([p], pooling=pooling) for p in proteins])
    for batch_tokens in (700, 100_000):
        rows = encoder.embed(proteins, pooling=pooling, batch_tokens=batch_tokens)
        assert relative_error(rows, one_at_a_time) < 1e-5


def test_rows_do_not_depend_on_the_company(tiny):
    alone = tiny.embed(["MKVLA"])
    among = tiny.embed(["W" * 50, "MKVLA", "C"], batch_tokens=10_000)
    assert relative_error(among[1:2], alone) < 1e-5


def test_a_mean_is_the_mean_of_the_residues(tiny, proteins):
    residues = tiny.embed(proteins, pooling="residue")
    ends = np.cumsum([len(protein) for protein in proteins])
    means = [rows.mean(axis=0) for rows in np.split(residues, ends[:-1])]
    assert relative_error(tiny.embed(proteins), np.stack(means)) < 1e-5


def test_rows_depend_on_the_context_and_do_not_collapse(proteins):
    rows = load_cpu("esmc_demo").embed(proteins, pooling="residue")
    centred = rows - rows.mean(axis=0)
    spectrum = np.linalg.eigvalsh(centred.T @ centred)
    share = spectrum[spectrum > 0] / spectrum.sum()
    assert np.exp(-(share * np.log(share)).sum()) > 50
    letters = np.array(list("".join(proteins)))
    within = sum(
        ((rows[letters == letter] - rows[letters == letter].mean(axis=0)) ** 2).sum()
        for letter in set(letters)
    )
    assert within > 0.4 * (centred**2).sum()


def test_bfloat16_is_near_float32(proteins):
    exact = load_cpu("esmc_demo").embed(proteins)
    encoder = load_cpu("esmc_demo", precision="bfloat16")
    rows = encoder.embed(proteins)
    assert (encoder.precision, rows.dtype) == ("bfloat16", np.float32)
    assert 0 < relative_error(rows, exact) < 0.05


def test_auto_precision_is_float32_on_a_cpu(tiny):
    assert tiny.precision == "float32"


def test_no_sequences_give_no_rows(tiny):
    assert tiny.embed([]).shape == (0, 32)
    assert tiny.embed([], pooling="residue").shape == (0, 32)


def test_the_demo_encoder_says_that_it_is_untrained():
    demo = load_cpu("esmc_demo")
    assert demo.note == "untrained: seeded random weights"
    assert (demo.name, demo.width, demo.blocks) == ("esmc_demo", 256, 3)
    assert sum(p.numel() for p in demo.backbone.model.parameters()) == 2_659_904


def test_the_demo_weights_are_the_same_everywhere():
    assert load_cpu("esmc_demo").weights_sha256 == (
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


def test_an_unknown_pooling_is_an_error(tiny):
    with pytest.raises(InputError, match="pooling 'last'"):
        tiny.embed(["MK"], pooling="last")
