"""A code location and an instance in which runs and materialisations are recorded, not made."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.events import StepMaterializationData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.formats.shards import parse_shard_key, shard_name
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.metadata import MANIFEST_KEY
from esm_sae_assets.partition_ranges import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_VERSION_TAG,
    range_tags,
)
from esm_sae_assets.progress.backlog import SHARDS
from esm_sae_assets.progress.currency import Target, versions_now
from esm_sae_assets.schedules import shards_to_embed
from esm_sae_assets.sensors import what_follows
from esm_sae_assets.settings import Settings
from esm_sae_assets.shard_changes import change_of

# Queued runs have one.
_REPOSITORY = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("esm_sae"), "__repository__")


class RecordedWorld:
    """The graph of some settings on an instance; several on one are versions of the code."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self.instance = instance
        self.defs, self.graph = _loaded(settings)
        self.sample = dg.AssetKey(settings.embedding.sample)
        self.shards = self.graph.get(SHARDS).partitions_def.get_partition_keys()

    def make(
        self, key: dg.AssetKey, partition: str | None = None, *, data: str = "1", run: str = ""
    ) -> None:
        """Record a materialisation from what the inputs are now."""
        now = versions_now(Target(key, partition), self.graph, self.instance)
        assert now is not None, key
        metadata: dict[str, Any] = {}
        if key != SHARDS:
            product = self._output(key, partition, data)
            data = product.manifest.data_version
            metadata = {MANIFEST_KEY: dg.MetadataValue.path(str(product.manifest_path))}
        inputs = {f"{INPUT_VERSION_TAG}/{name}": version for name, version in now.inputs.items()}
        event = dg.AssetMaterialization(
            key,
            partition=partition,
            metadata=metadata,
            tags={CODE_VERSION_TAG: str(now.code), DATA_VERSION_TAG: data, **inputs},
        )
        if not run:
            self.instance.report_runless_asset_event(event)
            return
        recorded = dg.DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name="embed_shards",
            event_specific_data=StepMaterializationData(event),
        )
        self.instance.report_dagster_event(recorded, run)

    def provide(self, data: str = "1") -> None:
        """Record the source and the samples."""
        for name in ("uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"):
            self.make(dg.AssetKey(name), data=data)

    def embed(self, partitions: Sequence[str], *, data: str = "", run: str = "") -> None:
        """Record shards, and put their manifests into the data root."""
        folder = self.settings.root / "embeddings3"
        folder.mkdir(parents=True, exist_ok=True)
        for name in partitions:
            if change := change_of(name, data or name, SHARDS, self.instance):
                self.instance.report_runless_asset_event(change)
            self.make(SHARDS, name, data=data or name, run=run)
            (folder / f"{shard_name(*parse_shard_key(name))}.json").touch()

    def run(
        self,
        partitions: Sequence[str],
        status: dg.DagsterRunStatus,
        job: str = "embed_shards",
        **tags: str,
    ) -> str:
        """Record a run over neighbouring partitions; return its id."""
        over = range_tags(partitions) if partitions else {}
        definition = self.defs.resolve_job_def(job)
        return self.instance.create_run_for_job(
            definition,
            tags=over | tags,
            status=status,
            remote_job_origin=_REPOSITORY.get_job_origin(job),
        ).run_id

    def follow(self, *jobs: str) -> tuple[list[dg.RunRequest], str]:
        """Return the runs that the sensor asks for after the embedding, and what it says."""
        selections = {
            job.name: job.selection.resolve(self.graph)
            for job in self.defs.jobs or []
            if job.name in jobs
        }
        return what_follows(self.settings, selections, self.graph, self.instance)

    def _output(self, key: dg.AssetKey, partition: str | None, data: str) -> Product:
        path = self.settings.root / "recorded" / f"{key.to_user_string()}.{partition}"
        path.parent.mkdir(parents=True, exist_ok=True)

        def build(paths: list[Path]) -> dict[str, Any]:
            paths[0].write_text(data)
            return {}

        return produce_files(
            [path],
            manifest=manifest_beside(path),
            kind="recorded",
            determinants={"data": data},
            build=build,
        )

    def tick(self, when: str = "00:00") -> list[dg.RunRequest] | str:
        """Return the runs that the schedule asks for, or why it asks for none."""
        requests, state = shards_to_embed(self.settings, self.graph, self.instance, when)
        return requests or state


@functools.cache
def _loaded(settings: Settings) -> tuple[dg.Definitions, AssetGraph]:
    defs = build_defs(settings)
    return defs, defs.resolve_asset_graph()
