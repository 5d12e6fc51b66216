"""The code location: all assets, jobs and resources, built from the settings."""

import warnings
from typing import Any

import dagster as dg

from esm_sae_assets.assets.analysis import analysis_assets
from esm_sae_assets.assets.clusters import cluster_assets
from esm_sae_assets.assets.concepts import concept_assets
from esm_sae_assets.assets.embeddings import embedding_assets
from esm_sae_assets.assets.report import report_assets
from esm_sae_assets.assets.sae import sae_assets
from esm_sae_assets.assets.sequences import sequence_assets
from esm_sae_assets.jobs import jobs
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
    chosen = settings.embedding
    encoder = EncoderResource(
        name=chosen.encoder,
        weights=chosen.weights,
        device=chosen.device,
        precision=chosen.precision,
    )
    untrained_encoder = EncoderResource(
        name=settings.untrained_encoder, device=chosen.device, precision=chosen.precision
    )
    return dg.Definitions(
        assets=_assets(settings),
        jobs=jobs(settings),
        resources={
            "data": DataRoot(root=str(settings.root), latent_dim=settings.sae.latent_dim),
            "encoder": encoder,
            "untrained_encoder": untrained_encoder,
        },
    )


def _assets(settings: Settings) -> list[dg.AssetsDefinition]:
    # Whoever loads the definitions need not hear that backfill policies are in beta.
    with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):
        return [
            *sequence_assets(settings),
            *embedding_assets(settings),
            *sae_assets(settings),
            *cluster_assets(settings),
            *analysis_assets(settings),
            *concept_assets(settings),
            *report_assets(settings),
        ]


defs = build_defs()
