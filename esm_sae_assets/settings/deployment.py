"""All settings of a deployment."""

import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from esm_sae import storage
from esm_sae.embedding.encoders import untrained_name
from esm_sae.errors import InputError
from esm_sae.tracking import TRACKERS
from esm_sae_assets.settings.operation import (
    CatalogueSettings,
    CheckSettings,
    ScheduleSettings,
    StepSettings,
)
from esm_sae_assets.settings.science import (
    LARGE_SAMPLE,
    AnalysisSettings,
    ClusterSettings,
    EmbeddingSettings,
    SAESettings,
    SampleSettings,
)
from esm_sae_assets.settings.section import Section, split_list

# More than the 129 GB of the largest profile's shards.
CACHE_SIZE_GB = 200.0


class Settings(Section):
    """All settings of a deployment."""

    profile: str
    """Name of the profile these settings started from."""
    data_root: str = "data"
    """Folder of all outputs, or its URL on object storage, such as s3://bucket/prefix; a relative
    one is relative to the working directory."""
    cache: str = ""
    """Folder of the local copies of what is on object storage; empty: in the user's cache."""
    cache_size_gb: float = Field(default=CACHE_SIZE_GB, gt=0, allow_inf_nan=False)
    """Most that the copies may have, in units of 1e9 bytes; docs/storage.md."""
    source: str = "bundled"
    """UniRef50: ``bundled`` for the bundled proteins, or the path or URL of a FASTA file. What an
    HTTP(S) URL has is downloaded."""
    source_checksum: str = ""
    """Checksum of a downloaded source, such as ``md5:...`` or ``sha256:...``; empty: that of its
    metalink file."""
    source_metalink: str = ""
    """Path or URL of the source's metalink file; empty: ``RELEASE.metalink`` beside the source."""
    similarity_clusters: str = ""
    """Parquet table of similarity clusters (sequence_id, cluster_id), or ``bundled``; decides
    with which proteins each is held out. Empty: each is its own cluster."""
    seed: int = 0
    """Seed of all that is drawn at random."""
    split_seed: int = 0
    """Seed of the split into training, validation and test."""
    tracking: tuple[str, ...] = ()
    """What shows trainings while they run: ``tensorboard``, ``wandb``, or both; in the environment
    separated by commas. No output depends on it."""
    tracking_dir: str = ""
    """Folder of what these write; empty: ``tracking`` in the data root, where that is on object
    storage in the folder of the local copies."""
    samples: SampleSettings = SampleSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    sae: SAESettings = SAESettings()
    clusters: ClusterSettings = ClusterSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    schedules: ScheduleSettings = ScheduleSettings()
    steps: StepSettings = StepSettings()
    checks: CheckSettings = CheckSettings()
    catalogue: CatalogueSettings = CatalogueSettings()

    @field_validator("data_root")
    @classmethod
    def _require_place(cls, value: str) -> str:
        is_readable_only = value.lower().startswith(("http://", "https://", "ftp://"))
        is_url = storage.local_path(value) is None
        is_pattern = any(letter in value for letter in "*?[]#")
        if is_readable_only or (is_url and (is_pattern or not urlsplit(value).netloc)):
            raise ValueError("expected a folder, or a URL such as s3://bucket/prefix")
        return value

    @field_validator("tracking", mode="before")
    @classmethod
    def _split_tracking(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("tracking")
    @classmethod
    def _require_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in TRACKERS]:
            raise ValueError(f"'{unknown[0]}' is none of {', '.join(TRACKERS)}")
        return value

    @field_validator("tracking_dir")
    @classmethod
    def _require_folder(cls, value: str) -> str:
        if storage.is_url(value):
            raise ValueError("expected a folder of the machine that trains")
        return value

    @property
    def shard_count(self) -> int:
        """Number of embedding shards, enough for a full sample."""
        size = (
            self.samples.large_size
            if self.embedding.sample == LARGE_SAMPLE
            else self.samples.small_size
        )
        return math.ceil(size / self.embedding.sequences_per_shard)

    @property
    def untrained_encoder(self) -> str:
        """Name of the encoder's untrained twin."""
        return untrained_name(self.embedding.encoder)

    @property
    def root(self) -> Path:
        """The data root as an absolute path, where it is a folder."""
        folder = storage.local_path(self.data_root)
        if folder is None:
            raise InputError(f"{self.data_root}: is no folder; give a path")
        return folder.expanduser().resolve()

    @property
    def location(self) -> str:
        """The data root as an absolute path, or its URL."""
        if storage.local_path(self.data_root) is None:
            return self.data_root.rstrip("/")
        return str(self.root)
