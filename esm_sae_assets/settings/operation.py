"""The settings that no output depends on: checks, steps on a cluster, schedules, the UI."""

from typing import Any

from pydantic import Field, field_validator

from esm_sae_assets.settings.section import Section, split_list


class CheckSettings(Section):
    """From when on a check of a model warns. No output depends on these."""

    unknown_taxa_share: float = Field(default=0.1, ge=0, le=1)
    """Largest share of sampled records that tell no taxon."""
    cut_share: float = Field(default=0.1, ge=0, le=1)
    """Largest share of proteins that are cut off or left out for their length."""
    dead_share: float = Field(default=0.3, ge=0, le=1)
    """Largest share of latents that did not fire in the training's last pass."""
    silent_share: float = Field(default=0.5, ge=0, le=1)
    """Largest share of latents that fire on no row of the shards."""
    fvu_rise: float = Field(default=0.1, ge=0)
    """Largest rise of the FVU over the last other output, as a share of that."""
    noise_share: float = Field(default=0.9, ge=0, le=1)
    """Largest share of proteins in no density cluster."""
    duplicated_share: float = Field(default=0.5, ge=0, le=1)
    """Largest share of live latents that are nearly the same as another."""


class StepSettings(Section):
    """What a step asks of a cluster (deploy/ray, deploy/k8s); elsewhere nothing reads it."""

    gpus: int = Field(default=1, ge=0)
    """GPUs of a step of the pool ``gpu``; 0 where the cluster has none."""
    cpus: int = Field(default=1, ge=1)
    """Cores of any step; on Ray torch starts as many threads."""
    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of any step; none: it does not matter where there is how much."""


class ScheduleSettings(Section):
    """What is launched without being asked: the schedule of the shards and the sensors."""

    enabled: bool = False
    """Whether they are on from the start; each can be switched in the UI."""
    cron: str = "*/5 * * * *"
    """When missing shards are looked for, as a cron expression in UTC."""
    shards_at_once: int = Field(default=16, ge=1)
    """Most shards in progress, whoever launched them, for more to be launched."""
    shards_per_run: int = Field(default=8, ge=1)
    """Most neighbouring shards in one run, which loads the encoder once; in backfills too."""
    attempts: int = Field(default=3, ge=1)
    """Runs that may fail on the same code and inputs before a shard or a k is left to you."""
    seconds_between_looks: int = Field(default=60, ge=1)
    """Pause of the sensor that trains once all shards are there."""
    analyse: bool = False
    """Whether that sensor goes on with all that is below the autoencoders."""
    seconds_between_source_looks: int = Field(default=3_600, ge=1)
    """Pause of the sensor that looks for another source."""

    @field_validator("cron")
    @classmethod
    def _require_cron(cls, value: str) -> str:
        # Only here: settings are read without Dagster, too.
        from dagster._utils.schedules import is_valid_cron_string

        if not is_valid_cron_string(value):
            raise ValueError("expected five fields, such as */5 * * * *")
        return value


class CatalogueSettings(Section):
    """What Dagster's UI says of the assets beside what they are."""

    owners: tuple[str, ...] = ("team:esm-sae",)
    """Who answers for them: e-mail addresses and ``team:NAME``; in the environment separated by
    commas."""
    overdue_days: int = Field(default=0, ge=0)
    """Days after which source, samples and reports are shown as overdue, and after half as many
    more as failing; 0: never."""
    code_url: str = ""
    """Address of this code at the deployed revision, such as
    https://github.com/OWNER/NAME/blob/REVISION; empty: links go to the local files."""

    @field_validator("owners", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("owners")
    @classmethod
    def _require_owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("@" not in owner and not owner.startswith("team:") for owner in value):
            raise ValueError("expected e-mail addresses and team:NAME")
        return value
