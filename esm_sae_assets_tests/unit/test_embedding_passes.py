import logging
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from esm_sae.embedding import load_encoder
from esm_sae.embedding.memory import is_out_of_memory
from esm_sae.embedding.passes import Passes, State
from esm_sae.embedding.windows import whole_pieces, window_pieces
from esm_sae.errors import InputError, ResumableError

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))
SEQUENCES = ["MKV" * n for n in (2, 9, 4, 9, 1, 7, 3)]
NAMES = [f"P{number}" for number in range(len(SEQUENCES))]
START = State(pieces=0, batch_tokens=100, tokens=0)
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("Unable to allocate 2 GiB for an array"),
]


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


def passes(encoder, state=START, pieces=None, **options):
    lengths = np.array([len(sequence) for sequence in SEQUENCES])
    options = {"layer": -1, "pooling": "mean"} | options
    pieces = whole_pieces(lengths) if pieces is None else pieces
    return Passes(encoder, SEQUENCES, NAMES, pieces, state=state, **options)


def rows_of(batches):
    rows = np.full((len(SEQUENCES), 4), np.nan, dtype=np.float32)
    for batch in batches:
        rows[batch.pieces] = batch.pooled
    return rows


class Device:
    """Runs out of memory in a batch of more than so many tokens."""

    def __init__(self, encoder, limit, error=OUT_OF_MEMORY[0]):
        self.states, self.limit, self.error = encoder.backbone.states, limit, error
        self.sizes = []
        encoder.backbone.states = self

    def __call__(self, tokens, **options):
        self.sizes.append(tokens.numel())
        if tokens.numel() > self.limit:
            raise self.error
        return self.states(tokens, **options)


def test_the_state_tells_how_far_the_batches_have_come(toy):
    work = passes(toy)
    states, finished = [], []
    for batch in work:
        finished += batch.pieces.tolist()
        states.append(work.state)
        assert finished == work.order[: work.state.pieces].tolist()
    assert states[-1].pieces == len(SEQUENCES)
    assert work.order.tolist() == [1, 3, 5, 2, 6, 0, 4]
    assert [state.tokens for state in states] == np.cumsum([58, 23, 14, 11, 8, 5]).tolist()


def test_from_any_state_the_rest_is_the_same(toy):
    work = passes(toy)
    every = [(work.state, batch) for batch in work]
    for number, (state, _) in enumerate(every):
        rest = list(passes(toy, state))
        assert len(rest) == len(every) - number - 1
        for batch, (_, expected) in zip(rest, every[number + 1 :], strict=True):
            np.testing.assert_array_equal(batch.pieces, expected.pieces)
            np.testing.assert_array_equal(batch.pooled, expected.pooled)


def test_the_states_of_wanted_residues_are_those_of_the_piece_that_owns_them(toy):
    lengths = np.array([len(sequence) for sequence in SEQUENCES])
    pieces = window_pieces(lengths, 10)
    wanted = [np.arange(*bounds) for bounds in zip(pieces.own_start, pieces.own_end, strict=True)]
    for batch in passes(toy, pieces=pieces, residues=wanted):
        start = 0
        for piece in batch.pieces:
            sequence, first, end, own_first, own_end = (int(column[piece]) for column in pieces)
            window = toy.embed([SEQUENCES[sequence][first:end]], pooling="residue")
            expected = window[own_first - first : own_end - first]
            found = batch.residues[start : start + len(expected)]
            np.testing.assert_allclose(found, expected, atol=1e-6)
            start += len(expected)
        assert start == len(batch.residues)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_budget_for_what_is_left(toy, caplog, error):
    expected = rows_of(passes(toy))
    device = Device(toy, 30, error)
    work = passes(toy)
    with caplog.at_level(logging.WARNING, "esm_sae"):
        np.testing.assert_allclose(rows_of(work), expected, atol=1e-6)
    assert device.sizes[:3] == [58, 29, 29]
    assert max(device.sizes[1:]) <= work.state.batch_tokens == 29
    assert caplog.messages == [
        "out of memory on cpu with 58 tokens; going on with batches of at most 29"
    ]


def test_it_halves_again_where_that_is_not_enough(toy):
    sequences = ["MK"] * 64
    device = Device(toy, 20)
    rows = toy.embed(sequences, batch_tokens=1000)
    assert device.sizes[:5] == [256, 128, 64, 32, 16]
    assert rows.shape == (64, 4)


def test_a_sequence_that_does_not_fit_alone_is_named(toy):
    Device(toy, 20)
    message = "P1: its 27 residues do not fit into the memory of cpu; set max_length"
    with pytest.raises(InputError, match=message) as caught:
        list(passes(toy))
    assert not isinstance(caught.value, ResumableError)


def test_where_others_did_fit_it_is_an_error_that_may_pass(toy):
    device, work = Device(toy, np.inf), passes(toy)
    batches = iter(work)
    found = [next(batches), next(batches)]
    device.limit = 0
    with pytest.raises(ResumableError, match="P2: its 12 residues do not fit into the memory of"):
        next(batches)
    device.limit = np.inf
    rows = rows_of([*found, *passes(toy, work.state)])
    np.testing.assert_allclose(rows, rows_of(passes(toy)), atol=1e-6)


def test_an_encoder_that_packs_gets_batches_without_the_padding(toy):
    expected = list(passes(toy))
    assert [len(batch.pieces) for batch in expected] == [2, 1, 1, 1, 1, 1]
    toy.backbone.packs = True
    packed = passes(toy)
    batches = list(packed)
    assert [len(batch.pieces) for batch in batches] == [4, 3]
    np.testing.assert_allclose(rows_of(batches), rows_of(expected), atol=1e-6)
    tokens = sum(map(len, SEQUENCES)) + 2 * len(SEQUENCES)
    assert packed.state.tokens == tokens


def test_another_error_is_none_of_ours(toy):
    Device(toy, 20, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(passes(toy))


def test_what_memory_errors_look_like():
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY)
    assert not is_out_of_memory(ValueError("out of memory"))
