"""Sharing an SAE: a folder for a model hub, with a model card that tells where it comes from."""

from esm_sae.sharing.card import card_text
from esm_sae.sharing.lineage import manifests_at
from esm_sae.sharing.release import share_sae

__all__ = ["card_text", "manifests_at", "share_sae"]
