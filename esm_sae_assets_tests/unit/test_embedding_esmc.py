import functools
import itertools
import math

import numpy as np
import pytest
import torch
from esm.models.esmc import ESMC
from esm.tokenization import EsmSequenceTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_sae.data import bundled_fasta
from esm_sae.embedding.batching import pad
from esm_sae.embedding.esmc import load_esmc
from esm_sae.embedding.esmc_forward import pack, unpack
from esm_sae.embedding.weights import load_strictly
from esm_sae.formats.fasta import read_fasta

CPU = torch.device("cpu")
FREQUENCIES = 1 / 10_000 ** (torch.arange(0, 64, 2) / 64)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    torch.save(ESMC(128, 2, 3, EsmSequenceTokenizer()).state_dict(), path)
    return functools.partial(load_esmc, 128, 2, 3, weights=path, hub=None, device=CPU)


@pytest.fixture(scope="module")
def backbone(load):
    return load()


@pytest.fixture(scope="module")
def tokens(backbone):
    """Real proteins of 2 to 600 residues, some of one length, in no order of length."""
    sequences = [r.sequence for r in itertools.islice(read_fasta(bundled_fasta()), 300)]
    long = next(sequence for sequence in sequences if len(sequence) > 600)
    cuts = [long[:20], long[:600], long[40:42], long[7:27], long[:257], long[9:266], long[:33]]
    return torch.from_numpy(pad([backbone.vocabulary.encode(cut).ids for cut in cuts], 1))


def reference(model, tokens, layer):
    """Return what ``ESMC.forward`` gives."""
    with torch.inference_mode():
        output = model(sequence_tokens=tokens)
    states = output.hidden_states[layer - 1] if layer < 3 else output.embeddings
    return states[tokens != 1].double()


def states_of(backbone, tokens, layer=3, dtype=torch.float32):
    autocast = torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        return backbone.states(tokens, layer=layer, padded=bool((tokens == 1).any()))


def errors(states, expected):
    return (states.double() - expected).norm(dim=1) / expected.norm(dim=1)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_states_are_those_of_esm_to_its_own_rounding(load, backbone, tokens, layer):
    exact = reference(load().model.double(), tokens, layer)
    rounding = errors(reference(backbone.model, tokens, layer), exact)
    states = states_of(backbone, tokens, layer)
    found = errors(states[tokens != 1], exact)
    assert found.max() < 1e-5
    assert found.mean() < 1.2 * rounding.mean()
    assert (states[tokens == 1] == 0).all()


def test_a_sequence_alone_has_the_states_it_has_in_a_batch(backbone, tokens):
    together = states_of(backbone, tokens)
    for row, states in zip(tokens, together, strict=True):
        real = row != 1
        alone = states_of(backbone, row[real][None])
        assert errors(states[real], alone[0].double()).max() < 1e-6


def test_nothing_beyond_the_layer_is_computed(load, tokens):
    backbone = load()
    expected = states_of(backbone, tokens, layer=1)
    transformer = backbone.model.transformer
    for parameter in (*transformer.blocks[1:].parameters(), *transformer.norm.parameters()):
        parameter.data.fill_(math.nan)
    torch.testing.assert_close(states_of(backbone, tokens, layer=1), expected, rtol=0, atol=0)
    assert states_of(backbone, tokens, layer=3).isnan().any()


def test_bfloat16_is_as_near_as_esm_under_autocast(load, tokens):
    exact = reference(load().model, tokens, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rounding = errors(reference(load().model, tokens, 3), exact)
    found = errors(states_of(load(), tokens, dtype=torch.bfloat16)[tokens != 1], exact)
    assert 0 < found.mean() < 1.1 * rounding.mean()


def test_under_bfloat16_linear_weights_are_held_once(load, tokens):
    backbone = load()
    states_of(backbone, tokens, dtype=torch.bfloat16)
    reduced = {
        name
        for name, parameter in backbone.model.named_parameters()
        if parameter.dtype == torch.bfloat16
    }
    linear = {
        f"transformer.blocks.{block}.{name}.weight"
        for block in range(3)
        for name in ("attn.layernorm_qkv.1", "attn.out_proj", "ffn.1", "ffn.3")
    }
    assert reduced == linear
    with pytest.raises(RuntimeError, match=r"held in .*bfloat16 by now"):
        states_of(backbone, tokens)


def test_weights_of_a_file_are_taken_in_float32(backbone, tmp_path):
    path = tmp_path / "weights.pth"
    tensors = backbone.model.state_dict()
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, path)
    loaded = load_esmc(128, 2, 3, weights=path, hub=None, device=CPU).model
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_weights_that_were_read_are_held_once():
    tensors = {"weight": torch.rand(3, 2)}
    with torch.device("meta"):
        linear = torch.nn.Linear(2, 3, bias=False)
    load_strictly(linear, tensors, "weights.pth")
    assert linear.weight.data_ptr() == tensors["weight"].data_ptr()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(2, 400), min_size=1, max_size=12), st.integers(0, 3))
def test_packing_keeps_every_token_in_its_place(lengths, padding):
    width = max(lengths) + padding
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    packing = pack(lengths, width, FREQUENCIES)
    assert packing.places.tolist() == real.flatten().nonzero()[:, 0].tolist()
    assert [length for length, count in packing.runs for _ in range(count)] == lengths
    values = torch.rand(len(packing.cos), 5)
    unpacked = unpack(values, packing, (len(lengths), width))
    torch.testing.assert_close(unpacked[real], values[: sum(lengths)], rtol=0, atol=0)
    assert (unpacked[~real] == 0).all()
    sizes = [part.stop - part.start for part in packing.slices]
    assert sum(sizes) == len(packing.cos) >= 64
    assert max(sizes) <= 512
    assert max(sizes) - min(sizes) <= 1


def test_rotary_angles_start_anew_with_each_sequence():
    packing = pack([3, 70], 70, FREQUENCIES)
    positions = np.concatenate([np.arange(3), np.arange(70)])
    angles = positions[:, None] * FREQUENCIES.double().numpy()
    np.testing.assert_allclose(packing.sin[:, 0], np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(packing.cos[:, 0], np.tile(np.cos(angles), 2), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_states(load, tokens):
    exact = reference(load().model.double(), tokens, 3)
    on_device = tokens.cuda()
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        states = states_of(load(device=torch.device("cuda")), on_device, dtype=dtype).cpu()
        assert errors(states[tokens != 1], exact).max() < most
