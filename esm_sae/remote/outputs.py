"""What a manifest says is an output of its own, and where it belongs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from esm_sae.errors import InputError
from esm_sae.formats.manifest import MANIFEST_NAME, Manifest, parse_manifest
from esm_sae.formats.shards import SHARDS_KIND
from esm_sae.remote.store import object_name


@dataclass(frozen=True)
class Output:
    """An output as its manifest describes it.

    Attributes:
        name: of the manifest, relative to the data root.
        content: the manifest's bytes.
        manifest: what they say.
        own: its files, by size; none where they are those of the shards in its folder.
    """

    name: str
    content: bytes
    manifest: Manifest
    own: Mapping[str, int]

    @property
    def version(self) -> str:
        """The sha256 of the manifest."""
        return version_of(self.content)

    @property
    def place(self) -> str:
        """The folder, the file, or the shard's matrix that the manifest is of."""
        return place_of(self.name)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that is made whole, and not one of shards."""
        is_of_shards = self.manifest.kind == SHARDS_KIND
        return PurePosixPath(self.name).name == MANIFEST_NAME and not is_of_shards

    def path(self, file: str) -> str:
        """Return a file's name relative to the data root."""
        return (PurePosixPath(self.name).parent / file).as_posix()

    def object(self, file: str) -> str:
        """Return the name of the object with a file's bytes."""
        return object_name(self.path(file), self.manifest.files[file]["sha256"])


def outputs_of(contents: Mapping[str, bytes], location: str) -> dict[str, Output]:
    """Read manifests into outputs, by the manifests' names.

    Raises:
        InputError: one is no manifest.
    """
    outputs = {}
    for name, content in contents.items():
        manifest = parse_manifest(content, f"{location}/{name}")
        is_of_shards = manifest.kind == SHARDS_KIND
        own = {} if is_of_shards else {n: int(e["bytes"]) for n, e in manifest.files.items()}
        outputs[name] = Output(name, content, manifest, own)
    return outputs


def place_of(manifest_name: str) -> str:
    """Return the place of an output: its folder, its file, or its shard's matrix."""
    path = PurePosixPath(manifest_name)
    if path.name == MANIFEST_NAME:
        return path.parent.as_posix()
    if path.name.endswith(f".{MANIFEST_NAME}"):
        return path.with_name(path.name.removesuffix(f".{MANIFEST_NAME}")).as_posix()
    return path.with_suffix(".npy").as_posix()


def require_inside(name: str) -> None:
    """Refuse a name that leads out of the data root; some come from files in the bucket.

    Raises:
        InputError: it does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"{name!r}: leaves the data root; name what is under it")


def version_of(content: bytes) -> str:
    """Return the sha256 of a manifest's bytes."""
    return hashlib.sha256(content).hexdigest()
