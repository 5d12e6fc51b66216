"""The code location: assets, jobs, schedules, sensors, resources, built from the settings."""

import warnings
from typing import Any

import dagster as dg

from esm_sae_assets.assets.analysis import analysis_assets
from esm_sae_assets.assets.clusters import cluster_assets
from esm_sae_assets.assets.concepts import concept_assets
from esm_sae_assets.assets.embeddings import embedding_assets
from esm_sae_assets.assets.model_fidelity import model_fidelity_assets
from esm_sae_assets.assets.release import release_assets
from esm_sae_assets.assets.report import report_assets
from esm_sae_assets.assets.sae import sae_assets
from esm_sae_assets.assets.sequences import sequence_assets
from esm_sae_assets.automation import automation_sensor, with_automation
from esm_sae_assets.catalogue.attributes import catalogued
from esm_sae_assets.jobs import jobs
from esm_sae_assets.resources import EncoderResource, data_root
from esm_sae_assets.schedules import schedules
from esm_sae_assets.sensors import sensors
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
    all_jobs = jobs(settings)
    return dg.Definitions(
        assets=with_automation(_assets(settings)),
        jobs=all_jobs,
        schedules=schedules(settings),
        sensors=[*sensors(settings, all_jobs), automation_sensor()],
        resources={
            "data": data_root(settings),
            "encoder": encoder,
            "untrained_encoder": untrained_encoder,
        },
    )


def _assets(settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    # Whoever loads the definitions need not hear that backfill policies are in beta.
    with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):
        assets = [
            *sequence_assets(settings),
            *embedding_assets(settings),
            *sae_assets(settings),
            *model_fidelity_assets(settings),
            *release_assets(settings),
            *cluster_assets(settings),
            *analysis_assets(settings),
            *concept_assets(settings),
            *report_assets(settings),
        ]
        return catalogued(assets, settings)


defs = build_defs()
