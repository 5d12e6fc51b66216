"""The forward pass of ESM-C's transformer over packed sequences.

The sequences of a batch lie end to end, so that no PAD is computed: everything but attention
treats token by token, and attention takes the sequences of one length at a time, without a mask.
On a CPU what treats token by token goes slice by slice, and results overwrite what they replace:
memory touched for the first time and what falls out of the caches cost a good part of the
arithmetic's time.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

# Where a matrix product has fewer rows than this, libraries sum in another order: a sequence's
# bits would depend on the others of its batch.
_FEWEST_TOKENS = 64
_CPU_SLICE_TOKENS = 512


class Norm(NamedTuple):
    """A layer norm: weight (D,) and bias (D,), None where it has none."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Normalise rows (N, D) in float32."""
        return functional.layer_norm(rows.float(), self.weight.shape, self.weight, self.bias)


class Block(NamedTuple):
    """A transformer block: its weights and constants.

    Attributes:
        heads: number of attention heads.
        residual_scale: factor of what the block adds to the states.
        attention_norm: before attention.
        query, key, value: (D, D) each.
        query_norm, key_norm: of queries and keys, over all heads at once.
        out: after attention, (D, D).
        feed_forward_norm: before the feed-forward network.
        gate_up: SwiGLU's gate and up projections, one above the other, (2H, D).
        down: (D, H).
    """

    heads: int
    residual_scale: float
    attention_norm: Norm
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_norm: Norm
    key_norm: Norm
    out: torch.Tensor
    feed_forward_norm: Norm
    gate_up: torch.Tensor
    down: torch.Tensor


class Packing(NamedTuple):
    """Where the tokens of a batch lie when its sequences are laid end to end.

    Attributes:
        places: of each of N packed tokens in the flattened batch (B, T), (N,) int64.
        runs: (tokens of one, number of them) of each run of sequences of one length.
        cos: cosines of the rotary angles of each token, (N + filler, 1, d), d the size of a head.
        sin: sines, without the repetition for a head's second half, (N + filler, 1, d / 2).
        slices: the parts in which token-wise work is done; together N + filler.
    """

    places: torch.Tensor
    runs: list[tuple[int, int]]
    cos: torch.Tensor
    sin: torch.Tensor
    slices: list[slice]


def take_blocks(modules: Iterable[Any], dtype: torch.dtype) -> list[Block]:
    """Return the blocks of an ``ESMC``'s transformer, the linear layers' weights in ``dtype``.

    The modules' own weights are converted: each is held once.
    """
    return [_take_block(module, dtype) for module in modules]


def pack(lengths: Sequence[int], width: int, frequencies: torch.Tensor) -> Packing:
    """Lay sequences end to end.

    Args:
        lengths: number of tokens of each sequence of a batch.
        width: T, tokens of a sequence with padding.
        frequencies: of the rotary embedding (Su et al. 2021, arXiv 2104.09864, equation 15),
            (d / 2,), on the device of the forward pass.
    """
    device = frequencies.device
    positions = np.concatenate([np.arange(length) for length in lengths])
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    places = torch.from_numpy(sequences * width + positions)
    filled = np.zeros(max(len(positions), _FEWEST_TOKENS), dtype=np.int64)
    filled[: len(positions)] = positions
    at = torch.from_numpy(filled).to(device)
    angles = torch.outer(torch.arange(max(lengths), device=device).float(), frequencies)
    return Packing(
        places.to(device),
        [(length, len(list(run))) for length, run in itertools.groupby(lengths)],
        torch.cat([angles.cos()] * 2, dim=-1)[at][:, None],
        angles.sin()[at][:, None],
        _slices(len(filled), device),
    )


def run_blocks(states: torch.Tensor, blocks: Sequence[Block], packing: Packing) -> None:
    """Run packed states through transformer blocks, in place.

    Args:
        states: token states, filler rows at the end, (N + filler, D) float32.
        blocks: the blocks.
        packing: where the sequences lie.
    """
    if not blocks:
        return
    # Zeros, so that filler rows stay finite.
    work = torch.zeros((3, *states.shape), dtype=blocks[0].out.dtype, device=states.device)
    for block in blocks:
        for part in packing.slices:
            _project(states[part], block, work[:, part], packing.cos[part], packing.sin[part])
        _attend(work, packing.runs, block.heads)
        for part in packing.slices:
            _add_product(states[part], work[0, part], block.out, block.residual_scale)
            _feed_forward(states[part], block)


def unpack(states: torch.Tensor, packing: Packing, shape: tuple[int, int]) -> torch.Tensor:
    """Return packed states as a batch, (B, T, D), zero where it has PAD."""
    count, batch = len(packing.places), shape[0] * shape[1]
    if count == batch:
        return states[:count].view(*shape, -1)
    padded = states.new_zeros(batch, states.shape[1])
    return padded.index_copy_(0, packing.places, states[:count]).view(*shape, -1)


def take_norm(module: torch.nn.LayerNorm) -> Norm:
    """Return the layer norm that a module holds."""
    bias = module.bias
    return Norm(module.weight.detach(), None if bias is None else bias.detach())


def _take_block(module: Any, dtype: torch.dtype) -> Block:
    attention, (norm, gate_up, _, down) = module.attn, module.ffn
    attention_norm, projection = attention.layernorm_qkv
    for linear in (projection, attention.out_proj, gate_up, down):
        linear.weight.data = linear.weight.data.to(dtype)
    query, key, value = projection.weight.detach().chunk(3)
    return Block(
        heads=attention.n_heads,
        residual_scale=1 / module.scaling_factor,
        attention_norm=take_norm(attention_norm),
        query=query,
        key=key,
        value=value,
        query_norm=take_norm(attention.q_ln),
        key_norm=take_norm(attention.k_ln),
        out=attention.out_proj.weight.detach(),
        feed_forward_norm=take_norm(norm),
        gate_up=gate_up.weight.detach(),
        down=down.weight.detach(),
    )


def _slices(count: int, device: torch.device) -> list[slice]:
    # Slices of about the same size: a short last one would sum in another order.
    parts = -(-count // _CPU_SLICE_TOKENS) if device.type == "cpu" else 1
    bounds = np.linspace(0, count, parts + 1).astype(int).tolist()
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def _project(
    states: torch.Tensor, block: Block, work: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> None:
    """Write queries, keys and values of tokens into ``work``, (3, N, D)."""
    normed = block.attention_norm(states).to(work.dtype)
    for weight, target in zip((block.query, block.key, block.value), work, strict=True):
        torch.mm(normed, weight.t(), out=target)
    for norm, target in zip((block.query_norm, block.key_norm), work[:2], strict=True):
        _rotate(norm(target), target, cos, sin)


def _rotate(
    normed: torch.Tensor, target: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> None:
    """Write vectors (N, D) into ``target``, each head turned by its token's rotary angles."""
    half = sin.shape[-1]
    heads, turned = (rows.view(len(rows), -1, 2 * half) for rows in (normed, target))
    if target.dtype != normed.dtype:
        turned = torch.empty_like(heads)
    torch.mul(heads, cos, out=turned)
    turned[..., :half].addcmul_(heads[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin)
    if target.dtype != normed.dtype:
        target.copy_(turned.view_as(target))


def _attend(work: torch.Tensor, runs: Sequence[tuple[int, int]], heads: int) -> None:
    """Overwrite the queries in ``work``, (3, N, D), with what attention gives for them."""
    start = 0
    for length, count in runs:
        end = start + length * count
        rows = work[:, start:end].view(3, count, length, heads, -1)
        query, key, value = rows.transpose(2, 3)
        attended = functional.scaled_dot_product_attention(query, key, value)
        rows[0] = attended.transpose(1, 2)
        start = end


def _feed_forward(states: torch.Tensor, block: Block) -> None:
    """Add the feed-forward network's output to the states of tokens."""
    hidden = block.feed_forward_norm(states).to(block.gate_up.dtype) @ block.gate_up.t()
    gate, up = hidden.chunk(2, dim=-1)
    functional.silu(gate, inplace=True).mul_(up)
    _add_product(states, gate, block.down, block.residual_scale)


def _add_product(
    states: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, scale: float
) -> None:
    """Add ``scale`` times ``rows @ weight.T`` to the states."""
    if states.dtype == weight.dtype:
        states.addmm_(rows, weight.t(), alpha=scale)
    else:
        states.add_(rows @ weight.t(), alpha=scale)
