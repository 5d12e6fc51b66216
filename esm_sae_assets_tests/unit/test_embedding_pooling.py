import numpy as np
import pytest
import torch

from esm_sae.embedding.pooling import combine, pool, states_of_residues

LENGTHS = [3, 1, 5]


@pytest.fixture
def states():
    """States whose EOS and PAD, and BOS but for its own row, would ruin any row they enter."""
    states = torch.full((3, 7, 4), float("nan"))
    generator = torch.Generator().manual_seed(0)
    for number, length in enumerate(LENGTHS):
        states[number, 1 : 1 + length] = torch.randn(length, 4, generator=generator)
    return states


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", lambda residues: residues.mean(dim=0)),
        ("max", lambda residues: residues.max(dim=0).values),
        ("last", lambda residues: residues[-1]),
    ],
)
def test_rows_hold_residues_only(states, pooling, expected):
    rows = pool(states, [(0, length) for length in LENGTHS], pooling)
    wanted = [expected(states[n, 1 : 1 + length]) for n, length in enumerate(LENGTHS)]
    torch.testing.assert_close(rows, torch.stack(wanted))
    assert rows.dtype == torch.float32


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_only_owned_residues_count(states, pooling):
    rows = pool(states, [(1, 3), (0, 1), (2, 4)], pooling)
    alone = torch.stack([states[0, 2:4], states[0, 2:4], states[2, 3:5]])
    bounded = torch.nn.functional.pad(alone, (0, 0, 1, 1), value=float("nan"))
    expected = pool(bounded, [(0, 2)] * 3, pooling)
    torch.testing.assert_close(rows[[0, 2]], expected[[0, 2]])


def test_bos_is_the_first_token(states):
    states[:, 0] = torch.arange(12.0).reshape(3, 4)
    torch.testing.assert_close(pool(states, [(0, n) for n in LENGTHS], "bos"), states[:, 0])


def test_rows_are_those_of_the_chosen_residues(states):
    positions = [np.array([0, 2]), np.array([0]), np.array([], dtype=int)]
    rows = states_of_residues(states, positions)
    expected = torch.stack([states[0, 1], states[0, 3], states[1, 1]])
    torch.testing.assert_close(rows, expected)


def test_half_precision_states_are_averaged_in_single_precision():
    states = torch.full((1, 4098, 1), 0.1, dtype=torch.bfloat16)
    means = pool(states, [(0, 4096)], "mean")
    assert means.dtype == torch.float32
    torch.testing.assert_close(means[0, 0], states[0, 0, 0].float())


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_parts_combine_to_the_row_of_the_whole(states, pooling):
    pieces = [(0, 1), (1, 4), (4, 5)]
    parts = pool(states[[2, 2, 2]], pieces, pooling).numpy()
    whole = pool(states[[2]], [(0, 5)], pooling)[0].numpy()
    weights = np.array([end - start for start, end in pieces])
    np.testing.assert_allclose(combine(parts, weights, pooling), whole, rtol=1e-6)


def test_bos_of_windows_is_their_mean():
    parts = np.array([[1.0, 2.0], [3.0, 6.0]], dtype=np.float32)
    assert combine(parts, np.array([1, 9]), "bos").tolist() == [2.0, 4.0]
