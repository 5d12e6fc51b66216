"""The settings of a deployment: a named profile overlaid by environment variables."""

import hashlib
import importlib.resources
import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from esm_sae import storage
from esm_sae.clusters import Backend, Layout, Organism, Rank, Selection
from esm_sae.embedding.encoders import encoder_names, untrained_name
from esm_sae.errors import InputError
from esm_sae.url_secrets import holds_secret, without_secrets

_MOST = 2**31 - 1

LARGE_SAMPLE, SMALL_SAMPLE = "uniref50_10M_sample", "uniref50_1M_sample"

# More than the 129 GB of the largest profile's shards.
CACHE_SIZE_GB = 200.0

_PREFIX = "ESM_SAE_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _require_no_secret(cls, value: Any) -> Any:
        # Outputs record their sources, and Dagster keeps for months what it was configured with.
        if isinstance(value, str) and holds_secret(value):
            raise ValueError(
                "holds a user name, a password or a token; a download takes them from the netrc "
                "file, an object store from its own variables (docs/security.md)"
            )
        return value


def _split_list(value: Any) -> Any:
    """Take apart a list that came as the text of an environment variable."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


class SampleSettings(_Section):
    """The two samples of the source; a smaller source gives smaller samples."""

    large_size: int = Field(default=10_000_000, ge=1)
    """Most records in the large sample."""
    large_max_length: int = Field(default=2048, ge=1, le=_MOST)
    """Most residues of a record in the large sample."""
    small_size: int = Field(default=1_048_576, ge=1)
    """Most records in the small sample, which is drawn from the large one."""
    small_max_length: int = Field(default=256, ge=1, le=_MOST)
    """Most residues of a record in the small sample."""
    min_length: int = Field(default=1, ge=1)
    """Fewest residues of a record in either sample."""
    letters: str = ""
    """Residue letters that a record may have, such as ACDEFGHIKLMNPQRSTVWY; empty: all 26."""
    taxa: tuple[str, ...] = ()
    """TaxIDs, or names as the headers give them, of which a record's own must be one; empty: any.
    In the environment separated by commas."""
    drop_identical: bool = False
    """Whether of records with one sequence only the first is kept."""

    @field_validator("taxa", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split_list(value)


class EmbeddingSettings(_Section):
    """What a row of an embedding shard is, and how rows are computed."""

    sample: Literal["uniref50_10M_sample", "uniref50_1M_sample"] = SMALL_SAMPLE
    """The sample that is embedded and trained on."""
    encoder: str = "esmc_300m"
    """Name of the encoder."""
    weights: str = ""
    """Path of the encoder's weights; empty: bundled, or from the hub."""
    layer: int = -1
    """Layer, 0 to the number of blocks; -1 is the last, after the final norm."""
    pooling: Literal["mean", "max", "last", "bos", "residue"] = "mean"
    """What a row is: a protein (the mean or the maximum over its residues, its last residue, or
    its BOS token), or a residue."""
    residues_per_protein: int | None = Field(default=None, ge=1, le=_MOST)
    """With residue rows: how many residues of a protein are kept, drawn at random."""
    max_length: int | None = Field(default=None, ge=1, le=_MOST)
    """Most residues of a protein that the encoder gets at once; none: all."""
    long_sequences: Literal["truncate", "window", "skip"] = "truncate"
    """What becomes of longer proteins: cut off, embedded in overlapping windows, or left out."""
    sequences_per_shard: int = Field(default=16_384, ge=1)
    """Most sequences in a shard."""
    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the shards."""
    device: str = ""
    """Device of the encoder, such as cpu or cuda; empty: a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on a GPU, else float32."""
    batch_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """Most tokens in a batch, padding included; none: what suits the device."""

    @property
    def device_kind(self) -> str:
        """The device without its number, which does not change the rows; its kind does."""
        return self.device.partition(":")[0]


class SAESettings(_Section):
    """The sparse autoencoders."""

    latent_dim: int = Field(default=3840, ge=1)
    """L, the number of latents."""
    ks: tuple[int, ...] = (16, 32, 64)
    """The values of k; one autoencoder is trained for each."""
    batch_size: int = Field(default=4096, ge=1)
    """Rows in a training step."""
    num_epochs: int = Field(default=10, ge=1)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the matrix products; sums and weights are float32 in either."""
    aux_alpha: float = Field(default=1 / 32, ge=0, allow_inf_nan=False)
    """Weight of the auxiliary loss (AuxK), which revives dead latents; 0 switches it off."""
    aux_k: int | None = Field(default=None, ge=1, le=_MOST)
    """Dead latents that take part in it for a row; none: half the width of a row."""
    latent_bias: bool = True
    """Whether the latents' bias is trained; else it stays 0."""
    tied: bool = False
    """Whether the encoder stays the decoder's transpose."""
    normalize: bool = False
    """Whether each row is z-scored before it is encoded."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Epochs between the checkpoints kept beside the final one; 0: only the final one."""
    project: str = ""
    """Name of the group of runs, kept in every checkpoint's config."""
    replicate: bool = False
    """Whether each autoencoder is trained once more, with another seed."""
    untrained_baseline: bool = False
    """Whether autoencoders of the untrained encoder's rows are trained to compare with."""

    @field_validator("ks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _split_list(value)

    @field_validator("ks")
    @classmethod
    def _require_distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value) or min(value) < 1:
            raise ValueError("expected distinct positive numbers, such as 16,32,64")
        return value


class ClusterSettings(_Section):
    """Taxon clusters and clusters of the embedding space."""

    taxonomy: str = ""
    """NCBI's taxonomy (taxdump): its folder or archive, or the archive's URL, which is downloaded.
    Empty: taxa stay as the headers give them."""
    taxonomy_checksum: str = ""
    """Checksum of a downloaded taxonomy, such as ``md5:...``; empty: none is known."""
    rank: Literal["", Rank] = ""
    """Rank that taxa are lifted to, which needs a taxonomy; empty: they stay as they are."""
    organism: Organism = "common_ancestor"
    """Whose taxon a UniRef record has: its members' common ancestor's, or its representative's."""
    species_list: str = ""
    """UniProt's list of organism codes (speclist.txt), a path or a URL, which is downloaded; it
    gives representatives a TaxID. Empty: they are known by their codes."""
    taxon_min_size: int = Field(default=2_500, ge=1)
    """Fewest proteins, within the small sample's lengths, of a taxon that is sampled."""
    per_taxon: int = Field(default=100, ge=1)
    """Proteins sampled from each taxon."""
    match_lengths: bool = False
    """Whether the samples of all taxa have the same lengths, so that length can't pose as
    taxonomy."""
    min_cluster_size: int = Field(default=50, ge=2)
    """Fewest proteins of a cluster that HDBSCAN reports."""
    min_samples: int = Field(default=5, ge=1)
    """HDBSCAN's min_samples: the larger, the more proteins are noise."""
    components: int = Field(default=50, ge=1)
    """Principal components that HDBSCAN sees."""
    fit_rows: int = Field(default=20_000, ge=2)
    """Most proteins that HDBSCAN is fitted to; the others are predicted."""
    selection: Selection = "auto"
    """Persistent clusters (eom) or the finest (leaf); auto takes eom unless it puts over 80% of
    the proteins into one cluster."""
    backend: Backend = "hdbscan"
    """Package that fits HDBSCAN; fast_hdbscan comes with the extra ``fast``."""
    map: Layout = "pca"
    """Layout of the map of the proteins; umap comes with the extra ``umap``."""

    @model_validator(mode="after")
    def _require_taxonomy(self) -> Self:
        if self.rank and not self.taxonomy:
            raise ValueError(f"rank '{self.rank}' needs a taxonomy; set clusters.taxonomy")
        if self.taxonomy_checksum and not storage.is_http_url(self.taxonomy):
            raise ValueError("taxonomy_checksum is that of a download; the taxonomy is none")
        if self.species_list and self.organism != "representative":
            raise ValueError("species_list is read only with organism = representative")
        if self.organism == "representative" and self.taxonomy and not self.species_list:
            raise ValueError(
                "organism codes have a TaxID only by a species list; set clusters.species_list"
            )
        return self


class AnalysisSettings(_Section):
    """What is asked of the latents."""

    annotations: str = ""
    """UniProt export of the sample's proteins, as TSV: keywords, EC, GO, Pfam, InterPro, features
    with positions. Empty: concepts are the names in the headers and what the sequences show."""
    min_positives: int = Field(default=5, ge=1)
    """Fewest proteins with a concept, in validation and in test each, for which it is scored."""
    permutations: int = Field(default=200, ge=0)
    """Permutations of the taxa that the enrichment is calibrated by; 0: none."""
    decoder_min_cluster_size: int = Field(default=5, ge=2)
    """Fewest latents of a cluster of decoder rows."""
    match_rows: int = Field(default=65_536, ge=2)
    """Most held-out rows over which latents of two autoencoders are correlated."""


class CheckSettings(_Section):
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


class StepSettings(_Section):
    """What a step asks of a cluster (deploy/ray, deploy/k8s); elsewhere nothing reads it."""

    gpus: int = Field(default=1, ge=0)
    """GPUs of a step of the pool ``gpu``; 0 where the cluster has none."""
    cpus: int = Field(default=1, ge=1)
    """Cores of any step; on Ray torch starts as many threads."""
    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of any step; none: it does not matter where there is how much."""


class ScheduleSettings(_Section):
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


class CatalogueSettings(_Section):
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
        return _split_list(value)

    @field_validator("owners")
    @classmethod
    def _require_owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("@" not in owner and not owner.startswith("team:") for owner in value):
            raise ValueError("expected e-mail addresses and team:NAME")
        return value


class Settings(_Section):
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


def load_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Return the settings of the profile ``ESM_SAE_PROFILE`` (``demo`` by default).

    Other variables overlay it: ``ESM_SAE_DATA_ROOT``, ``ESM_SAE_SAE_LATENT_DIM``, and so on, the
    section's name before the setting's. ``overrides`` overlay both; a section is given as a
    dictionary of what differs.

    Raises:
        InputError: the profile does not exist, a variable names no setting, or a value does not
            fit.
    """
    variables = os.environ if environment is None else environment
    profile = overrides.get("profile") or variables.get(f"{_PREFIX}PROFILE", "demo")
    content = _read_profile(profile)
    _overlay(content, _from_environment(variables))
    _overlay(content, overrides)
    try:
        settings = Settings.model_validate({**content, "profile": profile})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        shown = without_secrets(repr(first["input"]))
        raise InputError(f"settings: {name} = {shown}: {first['msg']}") from None
    _require_untrained_encoder(settings)
    return settings


def code_version(algorithm: int, *values: Any) -> str:
    """Return an asset's code version: its algorithm's version and the settings that it reads.

    Dagster does not see settings otherwise; so a changed one makes stale what depends on it.
    """
    plain = [value.model_dump() if isinstance(value, BaseModel) else value for value in values]
    text = json.dumps(plain, sort_keys=True, default=str)
    return f"{algorithm}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    folder = importlib.resources.files("esm_sae_assets") / "profiles"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _require_untrained_encoder(settings: Settings) -> None:
    if settings.sae.untrained_baseline and settings.untrained_encoder not in encoder_names():
        raise InputError(
            f"settings: sae.untrained_baseline = True: encoder '{settings.embedding.encoder}' has "
            f"no untrained twin; register '{settings.untrained_encoder}', or set "
            f"{_PREFIX}SAE_UNTRAINED_BASELINE=false"
        )


def _read_profile(name: str) -> dict[str, Any]:
    if name not in profile_names():
        raise InputError(f"settings: no profile '{name}'; there are {', '.join(profile_names())}")
    file = importlib.resources.files("esm_sae_assets") / "profiles" / f"{name}.toml"
    return tomllib.loads(file.read_text())


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    places = _places_of_variables()
    content: dict[str, Any] = {}
    for variable, value in variables.items():
        if not variable.startswith(_PREFIX) or variable == f"{_PREFIX}PROFILE":
            continue
        if variable not in places:
            raise InputError(
                f"settings: {variable} names no setting; known are {', '.join(sorted(places))}"
            )
        section, field = places[variable]
        if section:
            content.setdefault(section, {})[field] = value
        else:
            content[field] = value
    return content


def _places_of_variables() -> dict[str, tuple[str, str]]:
    places = {}
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, _Section):
            for inner in annotation.model_fields:
                places[f"{_PREFIX}{name}_{inner}".upper()] = (name, inner)
        elif name != "profile":
            places[f"{_PREFIX}{name}".upper()] = ("", name)
    return places


def _overlay(content: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, Mapping):
            content[name] = {**content.get(name, {}), **value}
        else:
            content[name] = value
