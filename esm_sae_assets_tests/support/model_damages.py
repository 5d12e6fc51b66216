"""Damages of autoencoders and of their analysis, and what the checks say of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl

from damaged_outputs import (
    AS_RECORDED,
    Case,
    Damage,
    Output,
    drop_first,
    flip_bit,
    set_json,
    set_rows,
    summarise,
)
from esm_sae.formats.shared_sae import read_shared_sae, write_shared_sae


def change_weights(change: Callable[[dict], object]) -> Damage:
    def damage(output: Output) -> None:
        (path,) = output.path.glob("checkpoint_epoch_*.npy")
        content = np.load(path, allow_pickle=True).item()
        change(content)
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
        output.record_again()

    return damage


def share_other_weights(output: Output) -> None:
    checkpoint = read_shared_sae(output.path)
    write_shared_sae(output.path, replace(checkpoint, latent_bias=-checkpoint.latent_bias))
    output.record_again()


def _drop_bin(content: dict) -> None:
    content["l0_histogram"][-1] -= 1


def _rename_taxon(content: dict) -> None:
    next(iter(content.values()))["taxon"] = "Nowhere"


CASES = [
    Case(
        "sae_checkpoint",
        "weights_are_sound",
        change_weights(lambda content: content["dec"]["kernel"].__imul__(1.01)),
        r"the decoder rows of 64 of 64 latents are not of unit norm, such as latent 0 \(1.01\)",
    ),
    Case(
        "sae_checkpoint",
        "weights_are_sound",
        change_weights(lambda content: content["lb_L"].fill(np.inf)),
        "k = 4: .*latent_bias holds NaN or infinity; train again",
    ),
    Case(
        "sae_checkpoint",
        "weights_are_sound",
        lambda output: flip_bit(output.path / "train_state.safetensors"),
        f"k = 4: .*train_state.safetensors: {AS_RECORDED}",
    ),
    Case(
        "sae_checkpoint",
        "weights_are_sound",
        set_rows("metrics.parquet", "fvu", float("nan")),
        "1 of .* rows have a fvu that is not finite, such as step",
    ),
    Case(
        "sae_checkpoint",
        "latents_are_alive",
        summarise(dead_share=0.6),
        "k = 4: 60.0% of the latents are dead, more than 30%; raise ESM_SAE_SAE_AUX_ALPHA",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        set_json("metrics.json", l0_mean=4.5),
        "l0_mean is 4.5, expected 0 to 4; make it again",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        set_json("metrics.json", fvu="0.1"),
        "fvu is '0.1', expected a number",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        lambda output: output.change_json("metrics.json", _drop_bin),
        "rows of the histogram of L0: found .*, expected",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        set_json("metrics.json", explained_variance=0.99),
        r"explained_variance and 1 - fvu differ \(0.99 and ",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        set_rows("latents.parquet", "density", 1.5),
        "1 of 64 rows have a density outside 0 to 1, such as latent 0",
    ),
    Case(
        "sae_metrics",
        "metrics_are_sound",
        drop_first("latents.parquet"),
        "63 of 63 rows are out of order, such as latent 1",
    ),
    Case(
        "sae_metrics",
        "baselines_are_beaten",
        summarise(random_dictionary_fvu=0.0001),
        "is not below 0.0001 of a dictionary that was never trained: nothing was learned",
    ),
    Case(
        "sae_release",
        "release_is_the_checkpoint",
        lambda output: flip_bit(output.path / "sae.safetensors"),
        f"k = 4: .*sae.safetensors: {AS_RECORDED}",
    ),
    Case(
        "sae_release",
        "release_is_the_checkpoint",
        share_other_weights,
        "k = 4: .*sae.safetensors: latent_bias is not that of .*checkpoint_epoch_2.npy",
    ),
    Case(
        "sae_model_fidelity",
        "fidelity_adds_up",
        set_json("model_fidelity.json", cross_entropy_spliced=-1.0),
        "cross_entropy_spliced is -1, expected 0 to",
    ),
    Case(
        "sae_model_fidelity",
        "fidelity_adds_up",
        set_json("model_fidelity.json", recovered_of_zero=2.5),
        "recovered_of_zero is 2.5, which does not follow from the cross-entropies",
    ),
    Case(
        "sae_model_fidelity",
        "fidelity_adds_up",
        drop_first("by_residue.parquet"),
        "masked residues: found",
    ),
    Case(
        "sae_model_fidelity",
        "splicing_beats_the_mean",
        summarise(cross_entropy_spliced=9.0),
        "the encoder loses more than with the mean state: cross-entropy 9 and",
    ),
    Case(
        "sae_comparison",
        "every_k_is_compared",
        drop_first("comparison.parquet"),
        r"values of k: found \[8\], expected \[4, 8\]",
    ),
    Case(
        "sae_comparison",
        "every_k_is_compared",
        set_rows("comparison.parquet", "fvu", 0.5),
        "fvu at k = 4: found 0.5, expected",
    ),
    Case(
        "sae_comparison",
        "pca_is_beaten",
        summarise(pca_is_better_at_k=[8]),
        "principal components reconstruct better at k = 8; train longer",
    ),
    Case(
        "sae_comparison",
        "fvu_falls_with_k",
        set_rows("comparison.parquet", "fvu", 0.0001),
        r"the FVU rises at k = 8 \(.*, at k = 4 0.0001\)",
    ),
    Case(
        "feature_report",
        "page_is_whole",
        lambda output: output.change_text("", "</style>", "@import url(//x.org/a.css);</style>"),
        r"k = 4: .*report.html: fetches url\(//x.org/a.css\), a page stands alone",
    ),
    Case(
        "feature_report",
        "page_is_whole",
        lambda output: output.change_text("", '"top":[', '"tops":['),
        "latents: found None, expected 64",
    ),
    Case(
        "feature_activations",
        "activations_are_sound",
        set_rows("by_row/00000.parquet", "activation", -1.0),
        "k = 4: .*have an activation that is not above 0, such as row 0",
    ),
    Case(
        "feature_activations",
        "activations_are_sound",
        lambda output: output.change_rows("by_row/00000.parquet", row=pl.lit(0)),
        "1 of 1 rows have more than 4 latents that fire, such as row 0, l0",
    ),
    Case(
        "feature_activations",
        "activations_are_sound",
        drop_first("proteins.parquet"),
        "pairs of protein and latent: found .*, expected",
    ),
    Case(
        "feature_activations",
        "latents_fire",
        summarise(silent_latents=60),
        r"60 of 64 latents \(93.8%\) never fire, more than 50%",
    ),
    Case(
        "feature_taxonomy",
        "figures_are_possible",
        set_rows("feature_taxonomy.parquet", "firing_frequency", 1.5),
        "have a firing_frequency outside 0 to 1, such as latent 0",
    ),
    Case(
        "feature_taxonomy",
        "figures_are_possible",
        lambda output: output.change_rows(
            "feature_taxonomy.parquet", p_value=pl.lit(0.5), q_value=pl.lit(0.1)
        ),
        "have a q below their p",
    ),
    Case(
        "feature_taxonomy",
        "figures_are_possible",
        lambda output: output.change_json("feature_taxonomy_mapping.json", _rename_taxon),
        "has the taxon Nowhere, which is none",
    ),
    Case(
        "feature_taxonomy",
        "taxa_are_tested",
        summarise(tested_pairs=0),
        "no pair could be tested; sample more proteins of each taxon",
    ),
    Case(
        "feature_clusters",
        "latents_add_up",
        drop_first("latent_map.parquet"),
        "latents on the map: found .*, expected",
    ),
    Case(
        "feature_clusters",
        "latents_add_up",
        lambda output: output.replace(
            pl.DataFrame(
                {"latent": [5], "other": [5], "cosine": [1.0], "correlation": [1.0]},
                schema=pl.read_parquet_schema(output.file("near_duplicates.parquet")),
            ),
            "near_duplicates.parquet",
        ),
        "are of a latent and one that is not behind it, such as latent 5, other 5",
    ),
    Case(
        "feature_clusters",
        "latents_differ",
        summarise(live_latents=10, latents_with_near_duplicate=6),
        r"6 of 10 live latents \(60.0%\) are nearly the same as another, more than 50%",
    ),
    Case(
        "feature_summary",
        "every_latent_has_a_row",
        drop_first(),
        "63 of 63 rows are out of order, such as latent 1",
    ),
    Case(
        "feature_summary",
        "every_latent_has_a_row",
        set_rows("", "max_activation", 99.0),
        r"columns other than in latents.parquet: found \['max_activation'\], expected \[\]",
    ),
    Case(
        "feature_summary",
        "latents_are_labelled",
        summarise(labels={"none": 64}),
        "latents that fire has a label; look at the check of feature_concepts",
    ),
    Case(
        "concept_annotations",
        "annotations_fit_sample",
        set_rows("", "sequence_id", "P0"),
        "are of a protein that uniref50_1M_sample.fasta has not, such as sequence_id P0",
    ),
    Case(
        "concept_annotations",
        "annotations_fit_sample",
        lambda output: output.change_rows(end=pl.col("end") + 1000),
        "lie outside their protein, such as sequence_id",
    ),
    Case(
        "concept_annotations",
        "concepts_are_known",
        summarise(sources={"name": {"concepts": 0}}),
        "no concept is known of 200 proteins",
    ),
    Case(
        "concept_baselines",
        "methods_are_scored",
        set_rows("baselines.parquet", "mean_auroc", 1.5),
        "have a mean_auroc outside 0 to 1, such as method raw",
    ),
    Case(
        "concept_baselines",
        "methods_are_scored",
        lambda output: output.drop_rows(
            "baselines.parquet", keep=lambda table: pl.concat([table, table[:1]])
        ),
        "methods that stand there twice: found 2, expected 0",
    ),
    Case(
        "concept_baselines",
        "concepts_can_be_judged",
        summarise(levels={"protein": {"eligible_concepts": 0}}),
        "no concept has enough positives among the held-out proteins",
    ),
    Case(
        "feature_concepts",
        "scores_are_possible",
        set_rows("concepts.parquet", "auroc", 1.5),
        "have a auroc outside 0 to 1, such as level",
    ),
    Case(
        "feature_concepts",
        "scores_are_possible",
        lambda output: output.change_rows("feature_concepts.parquet", chosen=pl.lit(True)),
        "concepts with a chosen latent|chosen latents of the same concept",
    ),
    Case(
        "feature_concepts",
        "a_concept_is_marked",
        lambda output: output.change_rows("concepts.parquet", validation_f1=pl.lit(0.0)),
        "concepts that can be judged no latent marks one; train longer",
    ),
    Case(
        "latent_matches",
        "matches_add_up",
        set_rows("matches.parquet", "cosine", 1.5),
        "have a cosine outside -1 to 1, such as sae main, k 4, latent",
    ),
    Case(
        "latent_matches",
        "matches_add_up",
        drop_first("comparison.parquet"),
        "pairs of autoencoders: found 7, expected 8",
    ),
    Case(
        "latent_matches",
        "latents_are_found_again",
        lambda output: output.change_rows(
            "comparison.parquet",
            correlation_matched=pl.lit(0.1),
            correlation_chance=pl.lit(0.2),
        ),
        "at k = 4, 8 another seed finds no more of the latents than chance does",
    ),
]
