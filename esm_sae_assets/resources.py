"""Resources: where outputs live and what they are called, and the encoder."""

import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import dagster as dg

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    MANIFEST_NAME,
    Manifest,
    Product,
    manifest_beside,
    parse_manifest,
    read_manifest,
)
from esm_sae.formats.shards import parse_shard_key, shard_name
from esm_sae.sequences.source import SOURCE_MANIFEST, download_name
from esm_sae_assets.orphans import end_with_run
from esm_sae_assets.settings import CACHE_SIZE_GB, Settings

if TYPE_CHECKING:
    from esm_sae.embedding import Encoder
    from esm_sae.remote import Mirror

_SHARDS = "embeddings3"


class DataRoot(dg.ConfigurableResource):
    """The folder of all outputs, and the name of each.

    Where the data root is on object storage, what is named is brought to a local copy first, so
    far as the store has it, and paths are those of the copy.
    """

    root: str
    latent_dim: int
    cache: str = ""
    cache_size_gb: float = CACHE_SIZE_GB
    tracking_dir: str = ""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Let the step end with its run: whatever makes outputs begins here."""
        if context.instance is not None and context.run is not None:
            end_with_run(context.instance, context.run.run_id)

    @property
    def is_local(self) -> bool:
        """Whether the data root is a folder, and not on object storage."""
        return self._mirror is None

    def path(self, *parts: str) -> Path:
        """Return a path under the data root.

        Raises:
            InputError: it would not be under the data root, or what is there cannot be brought.
        """
        name = _name_of(parts)
        mirror = self._mirror
        if mirror is None:
            return Path(self.root, name)
        if PurePosixPath(name).suffix:
            mirror.bring_file(name)
        elif name:
            mirror.bring_folder(name)
        return mirror.folder / name

    def file(self, name: str) -> Path:
        """Return a file under the data root, as ``path``, whatever its name is."""
        mirror = self._mirror
        if mirror is None:
            return self.path(name)
        mirror.bring_file(_name_of((name,)))
        return mirror.folder / name

    def step(self) -> contextlib.AbstractContextManager[None]:
        """Keep what is named within the block where it is until the end of the block."""
        mirror = self._mirror
        return contextlib.nullcontext() if mirror is None else mirror.step()

    def publish(self, product: Product) -> None:
        """Bring an output that was made under the data root to the store, where there is one."""
        if (mirror := self._mirror) is not None:
            mirror.push(product)

    def address(self, product: Product) -> str:
        """Return where people find an output: its path, or its URL."""
        mirror = self._mirror
        return str(product.path) if mirror is None else mirror.address(product)

    def manifest_address(self, product: Product) -> str:
        """Return where people find an output's manifest: its path, or its URL."""
        mirror = self._mirror
        path = product.manifest_path
        return str(path) if mirror is None else mirror.manifest_address(path)

    def link(self, product: Product) -> str:
        """Return the URL of an output, which where the data root is a folder is a ``file://``."""
        return product.path.as_uri() if self.is_local else self.address(product)

    @property
    def source(self) -> Path:
        """The folder in which the source of sequences is made known."""
        mirror = self._mirror
        if mirror is None:
            return Path(self.root)
        mirror.bring([SOURCE_MANIFEST])
        if (name := download_name(mirror.folder)) is not None:
            # As any name: the record came from the bucket.
            self.file(name)
        return mirror.folder

    def sample(self, name: str) -> Path:
        """Return a sample's FASTA file."""
        return self.path(f"{name}.fasta")

    @property
    def shards(self) -> Path:
        """The folder of the embedding shards."""
        return self.path(_SHARDS)

    def shard_folder(self, key: str) -> Path:
        """Return the folder of the embedding shards, of which one is brought."""
        name = shard_name(*parse_shard_key(key))
        return self._bring_shards([f"{_SHARDS}/{name}.json"])

    def shard_tables(self, count: int) -> Path:
        """Return the folder of the embedding shards, of which the matrices are not brought."""
        names = [f"{_SHARDS}/{shard_name(index, count)}.json" for index in range(count)]
        manifests = [*names, f"{_SHARDS}/{MANIFEST_NAME}"]
        return self._bring_shards(manifests, hold=_SHARDS, without=".npy")

    def manifests(self, *names: str) -> list[Manifest]:
        """Return the manifests of those names that are there; on object storage these alone."""
        mirror = self._mirror
        if mirror is None:
            found = [read_manifest(self.path(name)) for name in names]
            return [manifest for manifest in found if manifest is not None]
        contents = mirror.store.read([_name_of((name,)) for name in names])
        return [
            parse_manifest(content, mirror.store.address(name))
            for name, content in contents.items()
        ]

    def rows_made_from(self, samples: Sequence[str], shards: int) -> list[Manifest]:
        """Return the manifests of the training rows and of the sequences that they are of.

        Args:
            samples: names of the samples, that which is embedded first.
            shards: number of the embedding shards.
        """
        return self.manifests(
            f"{_SHARDS}/{MANIFEST_NAME}",
            f"{_SHARDS}/{shard_name(0, shards)}.json",
            *(manifest_beside(f"{name}.fasta").name for name in samples),
            SOURCE_MANIFEST,
        )

    @property
    def untrained_shards(self) -> Path:
        """The folder of the untrained encoder's shards."""
        return self.path("embeddings_untrained")

    @property
    def taxonomy_clusters(self) -> Path:
        """The table of taxon clusters."""
        return self.path("taxonomy_clusters.parquet")

    @property
    def cluster_statistics(self) -> Path:
        """Sizes and lengths of the taxa."""
        return self.taxonomy_clusters.with_name("cluster_statistics.json")

    @property
    def sampled_sequences(self) -> Path:
        """The sampled proteins of each taxon."""
        return self.path("sampled_sequences.json")

    @property
    def embedded_clusters(self) -> Path:
        """The sampled proteins with their embeddings."""
        return self.path("embedded_clusters.json")

    @property
    def embedding_clusters(self) -> Path:
        """The table of density clusters."""
        return self.path("embedding_clusters.parquet")

    @property
    def cluster_summary(self) -> Path:
        """The table of what each density cluster is."""
        return self.path("embedding_clusters.summary.parquet")

    @property
    def cluster_report(self) -> Path:
        """The page of the density clusters."""
        return self.path("embedding_clusters.html")

    @property
    def concept_annotations(self) -> Path:
        """The table of which protein has which concept."""
        return self.path("concept_annotations.parquet")

    @property
    def concept_baselines(self) -> Path:
        """The folder of what is held against the latents as marks of concepts."""
        return self.path("concept_baselines")

    @property
    def latent_matches(self) -> Path:
        """The folder of latents that two autoencoders share."""
        return self.path("latent_matches")

    @property
    def tracking(self) -> Path:
        """The folder of what trackers write, always on this machine: it grows by the row."""
        if self.tracking_dir:
            return Path(self.tracking_dir).expanduser().absolute()
        if self.is_local:
            return Path(self.root, "tracking")
        return _cache_folder(self.cache) / "tracking" / _place_in_cache(self.root)

    def sae(self, k: int, variant: str = "") -> Path:
        """Return the folder of an autoencoder's checkpoints."""
        name = self._sae_name(k)
        return self.path(f"{name}_{variant}" if variant else name)

    def metrics(self, k: int) -> Path:
        """Return the folder of an autoencoder's metrics."""
        return self.path(self._sae_name(k), "metrics")

    def release(self, k: int) -> Path:
        """Return the folder in which an autoencoder is shared."""
        return self.path("release", self._sae_name(k))

    def analysis(self, k: int, *parts: str) -> Path:
        """Return a path in the folder of an autoencoder's analysis."""
        return self.path("analysis", self._sae_name(k), *parts)

    def summarised(self, k: int) -> Path:
        """Return the folder of an analysis, what is recorded of its summary and activations in it.

        From object storage their tables, which may be of gigabytes, are not brought.
        """
        mirror = self._mirror
        if mirror is None:
            return self.analysis(k)
        folder = _name_of(("analysis", self._sae_name(k)))
        summary = manifest_beside("feature_summary.parquet").name
        mirror.bring(
            [f"{folder}/activations/{MANIFEST_NAME}", f"{folder}/{summary}"], without=".parquet"
        )
        return mirror.folder / folder

    def _sae_name(self, k: int) -> str:
        return f"L{self.latent_dim}_k{k}"

    def _bring_shards(self, manifests: list[str], *, hold: str = "", without: str = "") -> Path:
        mirror = self._mirror
        if mirror is None:
            return Path(self.root, _SHARDS)
        mirror.bring(manifests, hold=hold, without=without)
        return mirror.folder / _SHARDS

    @property
    def _mirror(self) -> "Mirror | None":
        if not storage.is_url(self.root):
            return None
        return _mirror_of(self.root, self.cache, round(self.cache_size_gb * 1e9))


def data_root(settings: Settings) -> DataRoot:
    """Return the data root of a deployment."""
    return DataRoot(
        root=settings.location,
        latent_dim=settings.sae.latent_dim,
        cache=settings.cache,
        cache_size_gb=settings.cache_size_gb,
        tracking_dir=settings.tracking_dir,
    )


class EncoderResource(dg.ConfigurableResource):
    """The protein language model; loaded once a process."""

    name: str
    weights: str = ""
    device: str = ""
    precision: str = "auto"

    def load(self) -> "Encoder":
        """Return the encoder.

        Raises:
            InputError: there is no such encoder, or its weights cannot be had.
        """
        return _load(self.name, self.weights, self.device, self.precision)


def _name_of(parts: tuple[str, ...]) -> str:
    path = PurePosixPath(*parts)
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise InputError(f"{'/'.join(parts)}: leaves the data root; name a path under it")
    return "" if path == PurePosixPath() else path.as_posix()


@functools.cache
def _mirror_of(url: str, cache: str, limit: int) -> "Mirror":
    # One a process: it knows what the process uses.
    from esm_sae.remote import Mirror, ObjectStore

    return Mirror(ObjectStore(url), _cache_folder(cache) / _place_in_cache(url), limit)


def _place_in_cache(url: str) -> str:
    scheme, _, place = url.partition("://")
    return _name_of((scheme, *place.split("/")))


def _cache_folder(chosen: str) -> Path:
    return Path(chosen).expanduser().resolve() if chosen else _user_cache()


def _user_cache() -> Path:
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "esm_sae"
    folder = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / folder / "esm_sae"


@functools.cache
def _load(name: str, weights: str, device: str, precision: str) -> "Encoder":
    from esm_sae.embedding import load_encoder

    return load_encoder(name, weights=weights or None, device=device or None, precision=precision)
