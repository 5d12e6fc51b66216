"""The code location: all assets, jobs and resources, built from the settings."""

from typing import Any

import dagster as dg

from esm_sae_assets.assets.analysis import analysis_assets
from esm_sae_assets.assets.clusters import cluster_assets
from esm_sae_assets.assets.embeddings import embedding_assets
from esm_sae_assets.assets.report import report_assets
from esm_sae_assets.assets.sae import sae_assets
from esm_sae_assets.assets.sequences import sequence_assets
from esm_sae_assets.jobs import JOBS
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import Settings, load_settings


def build_defs(settings: Settings | None = None, **overrides: Any) -> dg.Definitions:
    """Build the code location for a deployment or a test.

    Args:
        settings: all settings; None reads the profile and the environment.
        overrides: settings that differ, a section as a dictionary:
            ``build_defs(data_root="/data", sae={"ks": [16]})``.

    Raises:
        InputError: a setting does not fit.
    """
    if settings is None:
        settings = load_settings(**overrides)
    elif overrides:
        raise TypeError("give settings or overrides, not both")
    return dg.Definitions(
        assets=[
            *sequence_assets(settings),
            *embedding_assets(settings),
            *sae_assets(settings),
            *cluster_assets(settings),
            *analysis_assets(settings),
            *report_assets(settings),
        ],
        jobs=JOBS,
        resources={
            "data": DataRoot(root=str(settings.root), latent_dim=settings.sae.latent_dim),
            "encoder": EncoderResource(
                name=settings.embedding.encoder,
                weights=settings.embedding.weights,
                device=settings.embedding.device,
                precision=settings.embedding.precision,
            ),
        },
    )


defs = build_defs()
