"""What an SAE was made from: manifests that name each other by the hashes of their files."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from esm_sae import storage
from esm_sae.data import provenance
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import (
    Manifest,
    fingerprint_of,
    manifest_beside,
    read_manifest,
)
from esm_sae.formats.shards import EMBEDDINGS, SHARDS_KIND
from esm_sae.url_secrets import without_secrets


@dataclass(frozen=True)
class Lineage:
    """The manifests that lead from an SAE to the source of its sequences, so far as known.

    Attributes:
        embeddings: of the folder of embedding shards.
        shard: of one of these shards, whose options are those of all.
        samples: of the files of sequences, that which was embedded first.
        source: of the file that the last of these was drawn from.
        ends_at: sha256 of the last file of sequences that is known by its hash.
    """

    embeddings: Manifest | None = None
    shard: Manifest | None = None
    samples: tuple[Manifest, ...] = ()
    source: Manifest | None = None
    ends_at: str | None = None

    @property
    def is_bundled(self) -> bool:
        """Whether the sequences are those that come with this package."""
        return self.ends_at == provenance()["sha256"]["proteins.fasta.gz"]

    @property
    def source_name(self) -> str | None:
        """The URL of the source, or the name of its file; None where it is not known."""
        if self.source is None:
            return None
        location = str(self.source.summary.get("source", self.source.summary.get("url", "")))
        local = storage.local_path(location)
        # A local path tells of the machine and its user.
        return without_secrets(location) if local is None else PurePath(local).name or None


def manifests_at(path: storage.PathLike) -> list[Manifest]:
    """Return the manifests of an output: a folder of shards, a file, or a manifest itself.

    Raises:
        InputError: there is none.
    """
    location = Path(path)
    if location.is_dir() or location.suffix == ".json":
        manifest = read_manifest(location)
    else:
        manifest = read_manifest(manifest_beside(location))
    if manifest is None:
        if not location.exists():
            raise InputError(f"{location}: no such file or folder")
        raise InputError(f"{location}: has no manifest, which would tell what it was made from")
    shards = _mapping(manifest.determinants.get("shards"))
    if manifest.kind != SHARDS_KIND or not location.is_dir() or not shards:
        return [manifest]
    first = read_manifest(location / f"{PurePath(min(shards)).name}.json")
    return [manifest] if first is None else [manifest, first]


def trace(config: SAEConfig, manifests: Sequence[Manifest]) -> Lineage:
    """Follow an SAE to the source of its sequences, from hash to hash.

    Manifests of anything else are warned of and left out, so that nothing is told of an SAE that
    is true of another.

    Args:
        config: of the SAE.
        manifests: in any order.
    """
    left = list(manifests)
    embeddings = _take(
        left, lambda each: each.kind == SHARDS_KIND and _data_of(each) == config.data_fingerprint
    )
    shard = None
    if embeddings is not None:
        of_shards = set(_mapping(embeddings.determinants.get("shards")).values())
        shard = _take(left, lambda each: each.fingerprint in of_shards)
    sha256 = None if shard is None else _text(shard.determinants.get("source"))
    samples = []
    while sample := _take_file(left, sha256, "sample"):
        samples.append(sample)
        sha256 = _text(sample.determinants.get("source"))
    source = _take_file(left, sha256, "source", "download")
    if left:
        kinds = ", ".join(f"{each.kind} {each.fingerprint[:12]}" for each in left)
        warnings.warn(
            f"{len(left)} of the manifests given are not of what this SAE was made from, so far "
            f"as the others tell, and the card leaves them out: {kinds}",
            stacklevel=3,
        )
    return Lineage(embeddings, shard, tuple(samples), source, sha256)


def _take_file(left: list[Manifest], sha256: str | None, *kinds: str) -> Manifest | None:
    return _take(left, lambda each: each.kind in kinds and _has(each, sha256))


def _take(left: list[Manifest], fits: Callable[[Manifest], bool]) -> Manifest | None:
    found = next((each for each in left if fits(each)), None)
    if found is not None:
        left.remove(found)
    return found


def _has(manifest: Manifest, sha256: str | None) -> bool:
    """Whether an output has a file of a hash, or records one that is elsewhere."""
    return sha256 is not None and sha256 in {
        manifest.summary.get("sha256"),
        *(entry["sha256"] for entry in manifest.files.values()),
    }


def _data_of(embeddings: Manifest) -> str:
    """Return the fingerprint of shards as ``formats.shards.open_shards`` computes it."""
    versions = {
        name: replace(embeddings, files=dict(_files_of(embeddings, name)), summary={}).data_version
        for name in _mapping(embeddings.determinants.get("shards"))
    }
    return fingerprint_of("embeddings", versions)


def _files_of(embeddings: Manifest, shard: str) -> Iterator[tuple[str, dict[str, Any]]]:
    key = shard.removeprefix(EMBEDDINGS)
    for name, entry in embeddings.files.items():
        if PurePath(name).stem.endswith(key):
            yield name, entry


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
