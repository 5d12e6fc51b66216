"""The folders that autoencoders are shared as, one per k."""

import dagster as dg

from esm_sae import sharing
from esm_sae_assets import metadata
from esm_sae_assets.assets import model_fidelity
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import sae as look_at
from esm_sae_assets.partitions import SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot
from esm_sae_assets.settings import LARGE_SAMPLE, Settings, code_version

GROUP = "sae"


def release_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the asset."""
    chosen = settings.sae
    # The small sample is drawn from the large one.
    samples = list(dict.fromkeys([settings.embedding.sample, LARGE_SAMPLE]))
    spliced = model_fidelity.has_model_fidelity(settings)

    @dg.asset(
        group_name=GROUP,
        kinds={"huggingface", "markdown"},
        partitions_def=k_partitions(settings),
        deps=[
            dg.AssetDep(name, partition_mapping=SAME_KEY)
            for name in (
                *("sae_checkpoint", "sae_metrics", "feature_summary"),
                *(["sae_model_fidelity"] if spliced else []),
            )
        ],
        check_specs=specs_of("sae_release", look_at.RELEASE),
        code_version=code_version(3, chosen.license),
    )
    def sae_release(context: dg.AssetExecutionContext, data: DataRoot) -> dg.MaterializeResult:
        """An autoencoder as a folder to share on a model hub: weights, config, model card.

        The card tells what the records do, and of the rest that it is unknown.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = sharing.share_sae(
                data.sae(k),
                data.release(k),
                metrics=data.metrics(k),
                fidelity=data.analysis(k, model_fidelity.FOLDER) if spliced else None,
                analysis=data.summarised(k),
                made_from=data.rows_made_from(samples, settings.shard_count),
                license=chosen.license or None,
            )
            return metadata.result(
                product,
                clock,
                checks=look_at.release_checks(at_each(chosen.ks, data.release), data.sae),
                model_card=dg.MetadataValue.md(sharing.card_text(product.path)),
            )

    return [sae_release]
