"""What the encoder itself loses by an autoencoder of its residues' states."""

import dagster as dg

from esm_sae import analysis, sae
from esm_sae.embedding.encoders import known_size
from esm_sae.formats.analysis_tables import FIDELITY_BY_RESIDUE, FIDELITY_FIGURE
from esm_sae_assets import metadata
from esm_sae_assets.checks import at_each, specs_of
from esm_sae_assets.checks import sae as look_at
from esm_sae_assets.external import state_of
from esm_sae_assets.op_tags import GPU_POOL, gpu_op_tags
from esm_sae_assets.partitions import SAME_KEY, k_partitions
from esm_sae_assets.resources import DataRoot, EncoderResource
from esm_sae_assets.settings import Settings, code_version

GROUP = "sae"

FOLDER = "model_fidelity"


def has_model_fidelity(settings: Settings) -> bool:
    """Whether rows are residues' states of an encoder of this package.

    A mean over residues is nowhere inside the encoder, and one that was registered may have no
    head.
    """
    chosen = settings.embedding
    return chosen.pooling == "residue" and known_size(chosen.encoder) is not None


def model_fidelity_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Build the asset, where there is one."""
    if not has_model_fidelity(settings):
        return []
    chosen = settings.embedding

    @dg.asset(
        group_name=GROUP,
        kinds={"pytorch", "jax", "parquet"},
        partitions_def=k_partitions(settings),
        deps=[dg.AssetDep("sae_checkpoint", partition_mapping=SAME_KEY), chosen.sample],
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
        check_specs=specs_of("sae_model_fidelity", look_at.FIDELITY),
        code_version=code_version(
            3,
            (chosen.encoder, chosen.weights, state_of(chosen.weights), chosen.layer),
            (chosen.device_kind, chosen.precision, chosen.batch_tokens, chosen.max_length),
            (settings.similarity_clusters, state_of(settings.similarity_clusters)),
            settings.split_seed,
            settings.sae.fidelity_proteins,
            settings.seed,
        ),
    )
    def sae_model_fidelity(
        context: dg.AssetExecutionContext, data: DataRoot, encoder: EncoderResource
    ) -> dg.MaterializeResult:
        """What the encoder loses in predicting masked residues by the autoencoder's errors.

        Held-out proteins go through it as it is, with the reconstruction in the states' place, and
        with zeros and the mean state there. A row of the table is an amino acid.
        """
        with metadata.materializing(data) as clock:
            k = int(context.partition_key)
            product = analysis.measure_model_fidelity(
                sae.load_checkpoint(data.sae(k)),
                encoder.load(),
                data.sample(chosen.sample),
                data.analysis(k, FOLDER),
                layer=chosen.layer,
                similarity_clusters=settings.similarity_clusters or None,
                split_seed=settings.split_seed,
                seed=settings.seed,
                max_proteins=settings.sae.fidelity_proteins,
                max_length=chosen.max_length,
                batch_tokens=chosen.batch_tokens,
            )
            folders = at_each(settings.sae.ks, lambda k: data.analysis(k, FOLDER))
            return metadata.result(
                product,
                clock,
                checks=look_at.fidelity_checks(folders),
                table=product.path / FIDELITY_BY_RESIDUE,
                fidelity=metadata.plot(product.path / FIDELITY_FIGURE, "model fidelity"),
            )

    return [sae_model_fidelity]
