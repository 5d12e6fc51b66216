"""Removal of objects that no manifest names: those of older outputs and of killed uploads."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from esm_sae.errors import InputError
from esm_sae.remote.mirror import NEW
from esm_sae.remote.outputs import outputs_of
from esm_sae.remote.store import ObjectStore, is_manifest_name, is_object_name


class Pruned(NamedTuple):
    """What a store holds, in objects and bytes.

    Attributes:
        named: objects that a manifest names.
        named_bytes: their size.
        unnamed: objects that none names.
        unnamed_bytes: their size.
        old: those of them that are old enough to go.
        old_bytes: their size.
    """

    named: int
    named_bytes: int
    unnamed: int
    unnamed_bytes: int
    old: int
    old_bytes: int


def prune(
    store: ObjectStore,
    *,
    older_than: timedelta,
    remove: bool,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Pruned:
    """Count the objects of a store, and remove the old ones that no manifest names.

    Whoever is writing an output uploads its objects before the manifest that names them, so new
    ones stay. Other files under the store's URL are left alone.

    Args:
        store: the objects.
        older_than: least age of what is removed, a day or more.
        remove: whether to remove, or only to count.
        clock: gives the time.

    Raises:
        InputError: the age is less than a day, or a manifest cannot be read; nothing is removed.
    """
    if older_than < NEW:
        raise InputError(f"{older_than}: too short; objects of a day may be part of an upload")
    there = store.list("", below=True)
    manifests = [name for name in there if is_manifest_name(name)]
    outputs = outputs_of(store.read(manifests), store.url)
    named = {output.object(file) for output in outputs.values() for file in output.manifest.files}
    sizes = {name: found.bytes for name, found in there.items() if is_object_name(name)}
    unnamed = [name for name in sizes if name not in named]
    limit = clock() - older_than
    old = [
        name
        for name in unnamed
        if (modified := there[name].modified) is not None and modified < limit
    ]
    if remove:
        for name in old:
            # Someone may have sent it again since.
            found = store.stat([name]).get(name)
            if found is not None and found.modified == there[name].modified:
                store.remove([name])
    groups = ([name for name in sizes if name in named], unnamed, old)
    counts = [(len(group), sum(sizes[name] for name in group)) for group in groups]
    return Pruned(*counts[0], *counts[1], *counts[2])
