"""Sequences: UniRef50 and the two samples drawn from it."""

import dagster as dg

from esm_sae import sequences
from esm_sae.formats.sequence_index import index_path
from esm_sae.formats.verification import product_at
from esm_sae.sequences.figures import sample_figure
from esm_sae.sequences.source import download_name
from esm_sae_assets import metadata
from esm_sae_assets.checks import sequences as look_at
from esm_sae_assets.checks import specs_of
from esm_sae_assets.external import state_of
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import (
    LARGE_SAMPLE,
    SMALL_SAMPLE,
    CheckSettings,
    Settings,
    code_version,
)

GROUP = "sequences"


def sequence_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``sequences``."""
    samples = settings.samples

    class SampleConfig(dg.Config):
        seed: int = settings.seed
        """Which records are drawn."""

    @dg.asset(
        group_name=GROUP,
        kinds={"fasta"},
        check_specs=specs_of("uniref50_fasta", look_at.SOURCE),
        code_version=code_version(
            2,
            settings.source,
            state_of(settings.source),
            settings.source_checksum,
            settings.source_metalink,
            state_of(settings.source_metalink),
        ),
    )
    def uniref50_fasta(data: DataRoot) -> dg.MaterializeResult:
        """UniRef50 as it came: one FASTA record is one cluster's representative protein.

        What an HTTP(S) URL has is downloaded, resumed after a break and verified; the release is
        part of the data version. Another external file is recorded, not copied. The bundled
        proteins stand in for it in the demo.
        """
        with metadata.materializing(data) as clock:
            product = sequences.provide_source(
                settings.source,
                data.source,
                checksum=settings.source_checksum or None,
                metalink=settings.source_metalink or None,
            )
            if (name := download_name(data.source)) and (download := product_at(data.file(name))):
                data.publish(download)
            return metadata.result(product, clock, checks=look_at.source_checks(product))

    @dg.asset(
        group_name=GROUP,
        kinds={"fasta", "parquet"},
        deps=[uniref50_fasta],
        check_specs=specs_of("uniref50_10M_sample", look_at.SAMPLE),
        code_version=code_version(
            2,
            samples.large_size,
            samples.large_max_length,
            samples.min_length,
            samples.letters,
            samples.taxa,
            samples.drop_identical,
            settings.seed,
        ),
    )
    def uniref50_10M_sample(config: SampleConfig, data: DataRoot) -> dg.MaterializeResult:
        """Uniform sample of UniRef50, at most 10 million proteins of at most 2,048 residues.

        One record is one protein; its index table has the same order. Where the settings name
        letters or taxa, only proteins of those are drawn.
        """
        with metadata.materializing(data) as clock:
            source = sequences.provided_source(data.source)
            report = sequences.sample_fasta(
                source.location,
                data.sample(LARGE_SAMPLE),
                samples.large_size,
                min_length=samples.min_length,
                max_length=samples.large_max_length,
                letters=samples.letters or None,
                taxa=samples.taxa or None,
                drop_identical=samples.drop_identical,
                seed=config.seed,
                sha256=source.sha256,
            )
            return _sample_result(report, clock, config.seed, settings.checks)

    @dg.asset(
        group_name=GROUP,
        kinds={"fasta", "parquet"},
        deps=[uniref50_10M_sample],
        check_specs=specs_of("uniref50_1M_sample", look_at.SAMPLE),
        code_version=code_version(
            2, samples.small_size, samples.small_max_length, samples.min_length, settings.seed
        ),
    )
    def uniref50_1M_sample(config: SampleConfig, data: DataRoot) -> dg.MaterializeResult:
        """Uniform sample of the large sample, at most 2^20 proteins of at most 256 residues.

        One record is one protein; its index table has the same order.
        """
        with metadata.materializing(data) as clock:
            report = sequences.sample_fasta(
                data.sample(LARGE_SAMPLE),
                data.sample(SMALL_SAMPLE),
                samples.small_size,
                min_length=samples.min_length,
                max_length=samples.small_max_length,
                seed=config.seed,
            )
            return _sample_result(report, clock, config.seed, settings.checks)

    return [uniref50_fasta, uniref50_10M_sample, uniref50_1M_sample]


def _sample_result(
    report: "sequences.SampleReport", clock: metadata.Clock, seed: int, limits: CheckSettings
) -> dg.MaterializeResult:
    index = index_path(report.product.path)
    figure = sample_figure(report.product.manifest.summary)
    return metadata.result(
        report.product,
        clock,
        table=index,
        checks=look_at.sample_checks(report.product, limits),
        composition=metadata.plot(figure, "sample"),
        seed=seed,
    )
