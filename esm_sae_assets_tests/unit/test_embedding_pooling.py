import numpy as np
import pytest
import torch

from esm_sae.embedding.pooling import mean_of_residues, rows_of_residues

LENGTHS = [3, 1, 5]


@pytest.fixture
def states():
    """States whose BOS, EOS and PAD would ruin any row that they enter."""
    states = torch.full((3, 7, 4), float("nan"))
    generator = torch.Generator().manual_seed(0)
    for number, length in enumerate(LENGTHS):
        states[number, 1 : 1 + length] = torch.randn(length, 4, generator=generator)
    return states


def test_means_hold_residues_only(states):
    expected = [states[n, 1 : 1 + length].mean(dim=0) for n, length in enumerate(LENGTHS)]
    means = mean_of_residues(states, torch.tensor(LENGTHS))
    torch.testing.assert_close(means, torch.stack(expected))


def test_rows_are_those_of_the_chosen_residues(states):
    positions = [np.array([0, 2]), np.array([0]), np.array([], dtype=int)]
    rows = rows_of_residues(states, positions)
    expected = torch.stack([states[0, 1], states[0, 3], states[1, 1]])
    torch.testing.assert_close(rows, expected)


def test_half_precision_states_are_averaged_in_single_precision():
    states = torch.full((1, 4098, 1), 0.1, dtype=torch.bfloat16)
    means = mean_of_residues(states, torch.tensor([4096]))
    assert means.dtype == torch.float32
    torch.testing.assert_close(means[0, 0], states[0, 0, 0].float())
