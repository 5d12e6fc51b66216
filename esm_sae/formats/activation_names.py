"""What a checkpoint's activation is called, where it comes from, and what k says of it."""

from typing import NamedTuple

from esm_sae.formats.checkpoint import SAEConfig


class ActivationName(NamedTuple):
    """What a reader is told of an activation.

    Attributes:
        name: as its paper spells it.
        source: that paper.
        limits: whether no more than k latents fire on a row; else k do in the mean.
    """

    name: str
    source: str
    limits: bool

    def with_k(self, k: int) -> str:
        """Return what k says: ``at most k = 4``, or ``k = 4 in the mean``."""
        return f"at most k = {k:,}" if self.limits else f"k = {k:,} in the mean"


def activation_of(config: SAEConfig) -> ActivationName:
    """Return the name of the activation of a checkpoint that could be read."""
    return _NAMES[config.activation]


_NAMES = {
    "topk": ActivationName("TopK", "Gao et al. 2024, arXiv 2406.04093", limits=True),
    "batchtopk": ActivationName(
        "BatchTopK", "Bussmann et al. 2024, arXiv 2412.06410", limits=False
    ),
    "jumprelu": ActivationName(
        "JumpReLU", "Rajamanoharan et al. 2024, arXiv 2407.14435", limits=False
    ),
}
