"""Options of a training, and what they come to for a given number of rows."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import ACTIVATIONS, ZScore

_LEAST_BATCH, _MOST_BATCH = 32, 4096
_STEPS_PER_EPOCH = 400
# What an array of the trainer can be indexed by.
_MOST = 2**31 - 1
_LEAST_STEPS, _LEAST_EPOCHS, _MOST_EPOCHS = 3_000, 3, 100


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainOptions:
    """How an SAE is trained."""

    latent_dim: int
    """L, the number of latents."""

    k: int = 32
    """Number of pre-activations kept per row: at most k latents fire, by TopK; else in the mean."""

    activation: str = "topk"
    """What decides which latents fire: the k largest of a row (``topk``); the largest of a batch,
    k per row in the mean, and after the training a threshold (``batchtopk``); or a trained
    threshold of each latent, held at k in the mean (``jumprelu``)."""

    prefixes: tuple[int, ...] = ()
    """Matryoshka: numbers of latents, ascending and below L. The first so many latents are to
    reconstruct the rows by themselves, so that general latents come first."""

    k_start: int = 1
    """k of the first step as a multiple of k, to which it falls linearly. 1: k all the time."""

    k_anneal: float = 0.25
    """Share of all steps over which k falls from ``k_start``."""

    bandwidth: float = 1.0
    """JumpReLU: width of the window around the threshold in which it takes gradient, in units of
    the scaled rows."""

    l0_weight: float = 1.0
    """JumpReLU: weight of ``(L0 / k - 1) ** 2``."""

    batch_size: int | None = None
    """Rows per step. None: a power of two that gives 400 steps or more per epoch, 32 to 4096."""

    num_epochs: int | None = None
    """Passes over the training rows. None: what 3,000 steps take, from 3 to 100."""

    learning_rate: float | None = None
    """Peak of Adam's learning rate. None: 2e-3 * sqrt(1024 / L)."""

    warmup: float = 0.05
    """Share of all steps over which the learning rate rises linearly from 0."""

    decay: float = 0.5
    """Share of all steps, at the end, over which the learning rate falls linearly to 0."""

    aux_k: int | None = None
    """Dead latents that reconstruct the residual in the auxiliary loss. None: D / 2."""

    aux_alpha: float = 1 / 32
    """Weight of the auxiliary loss; 0 switches it off."""

    tied: bool = False
    """Whether the encoder stays the decoder's transpose."""

    normalize: bool = False
    """Whether each row is z-scored before it is encoded, and its reconstruction scaled back."""

    normalize_ddof: int = 0
    """What the deviation of that is short of D in its divisor: 0, or 1 as in Biohub's SAEs."""

    latent_bias: bool = True
    """Whether the latents' bias ``lb_L`` is trained; else it stays 0."""

    precision: Precision = "float32"
    """Type of the factors of large matrix products; sums, weights and the rest are float32."""

    checkpoint_every: int = 0
    """Epochs between the checkpoints kept beside the final one. 0: only the final one."""

    seed: int = 0
    """Seed of the first weights and of the order of the rows."""

    split_seed: int = 0
    """Seed of the split into training, validation and test rows."""

    @property
    def z_score(self) -> ZScore | None:
        """How each row is z-scored; None where it is not."""
        return ZScore(self.normalize_ddof) if self.normalize else None

    def check(self) -> None:
        """Check the options by themselves.

        Raises:
            InputError: an option has a value that cannot be used.
        """
        at_least = {"latent_dim": 1, "k": 1, "batch_size": 1, "num_epochs": 1, "aux_k": 1}
        for name, least in (at_least | {"checkpoint_every": 0, "seed": 0}).items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be {least} or more")
        for name in ("latent_dim", "batch_size", "num_epochs"):
            value = getattr(self, name)
            if value is not None and value > _MOST:
                raise InputError(f"{name} is {value}; it must be {_MOST} or less")
        if self.k > self.latent_dim:
            raise InputError(
                f"k is {self.k} with {self.latent_dim} latents; lower k or raise latent_dim"
            )
        self.check_variant()
        if self.normalize_ddof not in (0, 1):
            raise InputError(f"normalize_ddof is {self.normalize_ddof}; it must be 0 or 1")
        if self.normalize_ddof and not self.normalize:
            raise InputError("normalize_ddof is of rows that are z-scored; set normalize, too")
        if self.precision not in get_args(Precision):
            raise InputError(f"precision is {self.precision}; it must be float32 or bfloat16")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.aux_alpha < math.inf:
            raise InputError(f"aux_alpha is {self.aux_alpha}; it must be 0 or more")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and self.warmup + self.decay <= 1):
            raise InputError(
                f"warmup is {self.warmup} and decay {self.decay}; they are shares of the steps "
                "that come to 1 at most"
            )

    def check_variant(self) -> None:
        """Check the options that only some trainings have.

        Raises:
            InputError: an option has a value that cannot be used.
        """
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation is {self.activation}; it must be {' or '.join(ACTIVATIONS)}"
            )
        edges = (0, *self.prefixes, self.latent_dim)
        if any(start >= end for start, end in itertools.pairwise(edges)):
            raise InputError(
                f"prefixes are {', '.join(map(str, self.prefixes))}; they must ascend from 1 to "
                f"below the {self.latent_dim} latents"
            )
        if self.k_start < 1 or (self.k_start > 1 and self.k_start * self.k > self.latent_dim):
            raise InputError(
                f"k_start is {self.k_start}; it must be 1 or more, and that multiple of k = "
                f"{self.k} no more than the {self.latent_dim} latents"
            )
        if not 0 <= self.k_anneal <= 1:
            raise InputError(f"k_anneal is {self.k_anneal}; it must be a share from 0 to 1")
        for name in ("bandwidth", "l0_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Plan:
    """What the options come to for a given training set.

    Attributes:
        batch_size: rows per step.
        epochs: passes over the training rows.
        steps_per_epoch: steps per pass, counting a short last batch.
        learning_rate: peak of the learning rate.
        aux_k: dead latents in the auxiliary loss.
    """

    batch_size: int
    epochs: int
    steps_per_epoch: int
    learning_rate: float
    aux_k: int

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.epochs * self.steps_per_epoch


def plan_training(options: TrainOptions, *, rows: int, width: int) -> Plan:
    """Fill in what the options leave open, for ``rows`` training rows of ``width`` numbers."""
    batch_size = min(options.batch_size or _batch_size_for(rows), rows)
    steps_per_epoch = math.ceil(rows / batch_size)
    return Plan(
        batch_size=batch_size,
        epochs=options.num_epochs or _epochs_for(steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        learning_rate=options.learning_rate or 2e-3 * math.sqrt(1024 / options.latent_dim),
        aux_k=min(options.aux_k or max(width // 2, 1), options.latent_dim),
    )


def _batch_size_for(rows: int) -> int:
    fitting = 2 ** int(math.log2(max(rows // _STEPS_PER_EPOCH, 1)))
    return min(max(fitting, _LEAST_BATCH), _MOST_BATCH)


def _epochs_for(steps_per_epoch: int) -> int:
    wanted = math.ceil(_LEAST_STEPS / steps_per_epoch)
    return min(max(wanted, _LEAST_EPOCHS), _MOST_EPOCHS)
