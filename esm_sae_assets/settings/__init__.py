"""The settings of a deployment: a named profile overlaid by environment variables."""

from esm_sae_assets.settings.code_versions import code_version
from esm_sae_assets.settings.deployment import CACHE_SIZE_GB, Settings
from esm_sae_assets.settings.loading import load_settings, profile_names
from esm_sae_assets.settings.operation import CheckSettings
from esm_sae_assets.settings.science import (
    LARGE_SAMPLE,
    SMALL_SAMPLE,
    EmbeddingSettings,
    SAESettings,
)

__all__ = [
    "CACHE_SIZE_GB",
    "LARGE_SAMPLE",
    "SMALL_SAMPLE",
    "CheckSettings",
    "EmbeddingSettings",
    "SAESettings",
    "Settings",
    "code_version",
    "load_settings",
    "profile_names",
]
