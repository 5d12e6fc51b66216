"""The state of a training on disk: what going on after a kill needs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.sae.training_step import State

STATE_NAME = "train_state.safetensors"

_STEP = "step"


def save_state(folder: Path, state: State, *, step: int, project: str = "") -> None:
    """Publish the state after a step: weights, optimiser, rows since each latent fired."""
    tensors = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
    content = save(tensors | {_STEP: np.array(step)}, metadata={"project": project})
    storage.publish_bytes(folder / STATE_NAME, content)


def load_state(folder: Path, template: State) -> tuple[State, int] | None:
    """Read the state and the steps done; None where none was saved.

    Args:
        folder: where the training writes.
        template: a state of the same options, for its structure.

    Raises:
        InputError: the file is damaged or is of other options.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    named = _named_leaves(template)
    try:
        tensors = load_file(path)
        leaves = [_fitting(tensors[name], leaf) for name, leaf in named]
        step = int(tensors[_STEP])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be resumed from ({error}); remove {folder} and train again"
        ) from None
    return jax.tree.unflatten(jax.tree.structure(template), leaves), step


def _named_leaves(state: State) -> list[tuple[str, jax.Array]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _fitting(tensor: np.ndarray, leaf: jax.Array) -> jax.Array:
    if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
        raise ValueError(f"{tensor.shape} {tensor.dtype}, expected {leaf.shape} {leaf.dtype}")
    return jnp.asarray(tensor)
