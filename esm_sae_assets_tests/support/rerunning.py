"""A materialised graph, what is done to it, and what Dagster then calls stale."""

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from esm_sae.embedding import Encoder
from esm_sae.formats.manifest import Product
from esm_sae.storage import sha256_of
from esm_sae_assets import resources
from esm_sae_assets.assets import embeddings
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.partition_ranges import range_tags
from esm_sae_assets.progress.currency import runs_of, targets_in_order
from esm_sae_assets.settings import Settings


class World:
    """A graph by its settings, in an instance."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings, self.instance = settings, instance
        self.defs = build_defs(settings)
        self.graph = self.defs.resolve_asset_graph()

    def partitions(self, name: str) -> list[str]:
        """Return an asset's partition keys."""
        partitions = self.graph.get(dg.AssetKey(name)).partitions_def
        return list(partitions.get_partition_keys()) if partitions else []

    def run(self, name: str, *partitions: str | None, **config: Any) -> list[dict[str, Any]]:
        """Run one asset, over neighbouring partitions in one run; return what each shows."""
        over = [each for each in partitions if each is not None]
        loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
        result = dg.materialize(
            list(self.defs.assets or []),  # pyright: ignore[reportArgumentType]
            selection=[name],
            partition_key=over[0] if len(over) == 1 else None,
            tags=range_tags(over) if len(over) > 1 else {},
            resources=dict(self.defs.resources or {}),
            instance=self.instance,
            run_config={"loggers": loggers, "ops": {name: {"config": config}} if config else {}},
        )
        events = result.asset_materializations_for_node(name)
        return [
            {key: entry.value for key, entry in event.metadata.items()}
            for event in events
            if event.asset_key == dg.AssetKey(name)
        ]

    def run_all(self) -> list[dict[str, Any]]:
        """Run every asset, as a backfill over all does; return what each partition shows."""
        shown = []
        targets = targets_in_order(self.graph)
        for _, partitions in itertools.groupby(targets, operator.attrgetter("key")):
            for run in runs_of(list(partitions), self.graph):
                shown += self.run(run[0].name, *(target.partition for target in run))
        return shown

    def stale(self, settings: Settings | None = None) -> set[tuple[str, str | None]]:
        """Return the assets, with their partition, that Dagster calls stale.

        With other settings: as once the code location is loaded again.
        """
        defs = self.defs if settings is None else build_defs(settings)
        graph = defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(
            self.instance, graph, LoadingContextForTest(self.instance)
        )
        return {
            (key.to_user_string(), partition)
            for key in graph.materializable_asset_keys
            for partition in _partitions(graph.get(key).partitions_def)
            if resolver.get_status(key, partition) == StaleStatus.STALE
        }

    def hashes(self) -> dict[str, str]:
        """Return the hash of every file that is a function of the fingerprints."""
        return {
            str(path.relative_to(self.settings.root)): sha256_of(path)
            for path in sorted(self.settings.root.rglob("*"))
            if path.is_file() and path.name != "run.json"
        }

    def lose(self, shard: str) -> None:
        """Remove the files of a shard."""
        for path in (self.settings.root / "embeddings3").glob(f"*_{shard}.*"):
            path.unlink()


@contextlib.contextmanager
def other_rounding() -> Iterator[None]:
    """Let the encoder's states be a thousandth larger, as on a machine that rounds differently.

    Encoder, weights and options stay as they are.
    """
    load = resources._load

    def load_larger(*chosen: str) -> Encoder:
        encoder = load(*chosen)
        return Encoder(
            encoder.name,
            _LargerStates(encoder.backbone),  # pyright: ignore[reportArgumentType]
            device=encoder.device,
            precision=encoder.precision,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "_load", load_larger)
        yield


@contextlib.contextmanager
def same_pictures() -> Iterator[None]:
    """Let every shard show the pictures of the first: of a small one they take most of the time."""

    def once(draw: Callable[[Product], bytes]) -> Callable[[Product], bytes]:
        drawn: list[bytes] = []

        def draw_once(product: Product) -> bytes:
            if not drawn:
                drawn.append(draw(product))
            return drawn[0]

        return draw_once

    with pytest.MonkeyPatch.context() as patch:
        for name in ("map_figure", "lengths_figure"):
            patch.setattr(embeddings, name, once(getattr(embeddings, name)))
        yield


class _LargerStates:
    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def states(self, tokens: Any, *, layer: int, padded: bool) -> Any:
        return self._backbone.states(tokens, layer=layer, padded=padded) * 1.001


def _partitions(definition: dg.PartitionsDefinition | None) -> Sequence[str | None]:
    return [None] if definition is None else definition.get_partition_keys()
