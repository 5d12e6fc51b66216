"""TopK sparse autoencoders on embedding rows: training, evaluation, inference.

Importing this package is cheap: jax is loaded when one of its functions is first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esm_sae.sae.baselines import random_dictionaries
    from esm_sae.sae.comparison import compare_saes
    from esm_sae.sae.evaluation import evaluate_sae
    from esm_sae.sae.importing import import_sae
    from esm_sae.sae.inference import SAE, load_checkpoint
    from esm_sae.sae.options import TrainOptions
    from esm_sae.sae.trainer import TrainResult, train_sae, train_saes

__all__ = [
    "SAE",
    "TrainOptions",
    "TrainResult",
    "compare_saes",
    "evaluate_sae",
    "import_sae",
    "load_checkpoint",
    "random_dictionaries",
    "train_sae",
    "train_saes",
]

# jax would otherwise take most of a GPU's memory at its first use, and torch may hold the encoder
# there. Every module of this part is imported after this line, so jax always sees it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_MODULE_OF = {
    "SAE": "inference",
    "TrainOptions": "options",
    "TrainResult": "trainer",
    "compare_saes": "comparison",
    "evaluate_sae": "evaluation",
    "import_sae": "importing",
    "load_checkpoint": "inference",
    "random_dictionaries": "baselines",
    "train_sae": "trainer",
    "train_saes": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
