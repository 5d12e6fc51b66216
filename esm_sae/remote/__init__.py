"""Outputs on object storage, with a bounded copy of those in use on the local disk."""

from esm_sae.remote.mirror import Mirror
from esm_sae.remote.pruning import Pruned, prune
from esm_sae.remote.store import ObjectStore, manifest_at

__all__ = ["Mirror", "ObjectStore", "Pruned", "manifest_at", "prune"]
