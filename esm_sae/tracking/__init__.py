"""Showing a training while it runs: TensorBoard and Weights & Biases.

Neither is imported before a training asks for it; each comes with the extra of its name.
"""

from esm_sae.tracking.followed import TrackedRun, Tracker, Trackers, Tracking
from esm_sae.tracking.names import TRACKERS, require_trackers

__all__ = [
    "TRACKERS",
    "TrackedRun",
    "Tracker",
    "Trackers",
    "Tracking",
    "require_trackers",
]
