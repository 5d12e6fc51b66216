"""Reports: self-contained HTML pages, one per k and one of the density clusters."""

import dagster as dg

from esm_sae import report
from esm_sae_assets import metadata
from esm_sae_assets.assets import model_fidelity
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import reports as look_at
from esm_sae_assets.partitions import SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import Settings

GROUP = "report"


def report_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the assets of the group ``report``."""
    spliced = model_fidelity.has_model_fidelity(settings)

    @dg.asset(
        group_name=GROUP,
        kinds={"html"},
        partitions_def=k_partitions(settings),
        deps=[
            *(
                dg.AssetDep(name, partition_mapping=SAME_KEY)
                for name in (
                    "feature_summary",
                    "feature_activations",
                    "feature_taxonomy",
                    "feature_concepts",
                    "feature_clusters",
                    "sae_metrics",
                    *(["sae_model_fidelity"] if spliced else []),
                )
            ),
            *(["latent_matches"] if settings.sae.replicate else []),
            # Linked from the page.
            "embedding_cluster_report",
        ],
        check_specs=specs_of("feature_report", look_at.REPORT),
        code_version="4",
    )
    def feature_report(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """The latents of one autoencoder as a page to browse and share."""
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = report.write_report(
                data.analysis(k, "report.html"),
                summary=data.analysis(k, "feature_summary.parquet"),
                activations=data.analysis(k, "activations"),
                taxonomy=data.analysis(k, "taxonomy"),
                concepts=data.analysis(k, "concepts"),
                clusters=data.analysis(k, "clusters"),
                metrics=data.metrics(k),
                fidelity=data.analysis(k, model_fidelity.FOLDER) if spliced else None,
                matches=data.latent_matches if settings.sae.replicate else None,
                cluster_page=data.cluster_report,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.report_checks(
                    at_each(settings.sae.ks, lambda k: data.analysis(k, "report.html"))
                ),
                page=metadata.page(data.link(product)),
            )

    @dg.asset(
        group_name=GROUP,
        kinds={"html"},
        deps=["embedding_cluster_summary", "embedding_clusters"],
        check_specs=specs_of("embedding_cluster_report", look_at.CLUSTER_REPORT),
        code_version="1",
    )
    def embedding_cluster_report(data: DataRoot) -> dg.MaterializeResult:
        """The density clusters and their map as a page to browse and share."""
        with metadata.materializing(data) as clock:
            product = report.write_cluster_report(
                data.cluster_report,
                summary=data.cluster_summary,
                table=data.embedding_clusters,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.cluster_report_checks(product),
                page=metadata.page(data.link(product)),
            )

    return [feature_report, embedding_cluster_report]
