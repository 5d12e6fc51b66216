"""The model card: what it tells of what is known of an SAE."""

import re
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt

from esm_sae.embedding.encoders import _from_hub, encoder_names
from esm_sae.formats.checkpoint import SAEConfig, read_checkpoint, write_checkpoint
from esm_sae.sharing.card import BASE_MODELS, Known, model_card
from esm_sae.sharing.markdown import code, render
from rendered_cards import front_matter_of, text_of


def config(**values):
    return SAEConfig(4, 6, 2, **values)


def card_of(tmp_path, threshold=None, activation="topk", **known):
    generator = np.random.default_rng(0)
    path = tmp_path / "w.npy"
    write_checkpoint(
        path,
        encoder=generator.standard_normal((4, 6)),
        decoder=generator.standard_normal((6, 4)),
        latent_bias=np.zeros(6),
        pre_bias=np.zeros(4),
        threshold=threshold,
        config=config(activation=activation),
    )
    checkpoint = replace(read_checkpoint(path), config=known.pop("config", config()))
    return model_card(Known(checkpoint, "0" * 64, **known))


def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    seen = text_of(card_of(tmp_path))
    for said in (
        "Embeddings: unknown; fingerprint unknown.",
        "Sequences: unknown.",
        "Source: unknown.",
        "Split: unknown.",
        "Rows: unknown trained on",
        "Unknown: no metrics were given.",
        "Unknown: it was not measured, or the figures were not given.",
        "Unknown to this card: no analysis was given.",
        "No licence is stated for the files here",
        "How rows were held out is unknown",
    ):
        assert said in seen
    assert 'np.load("rows.npy")' in card_of(tmp_path)


def test_the_front_matter_names_the_encoder_of_the_hub(tmp_path):
    hub = front_matter_of(card_of(tmp_path, config=config(encoder="esmc_600m")))
    assert hub["base_model"] == "EvolutionaryScale/esmc-600m-2024-12"
    assert "license" not in hub


FIDELITY = {
    **{f"cross_entropy_{run}": 1 + n / 8 for n, run in enumerate(("clean", "spliced", "mean"))},
    **{f"perplexity_{run}": 2 + n / 8 for n, run in enumerate(("clean", "spliced", "mean"))},
    **{"cross_entropy_zero": 3.5, "perplexity_zero": 33.0, "kl_spliced": 0.25, "kl_mean": 0.5},
    **{"kl_zero": 0.75, "masked_residues": 1234, "proteins": 9, "similarity_clusters": 7},
    **{"layer": 3, "recovered_of_mean": 0.5, "recovered_of_zero": 0.95},
    **{"recovered_of_mean_low": 0.25, "recovered_of_mean_high": 0.625},
    **{"recovered_of_zero_low": None, "recovered_of_zero_high": None},
}


def test_what_the_encoder_loses_is_a_table_and_a_share(tmp_path):
    seen = text_of(card_of(tmp_path, fidelity=FIDELITY))
    for said in (
        "1,234 masked residues of 9 test proteins (7 clusters) from the states at layer 3",
        "as they are\n1\n2\n",
        "reconstructed by this SAE\n1.125\n2.125\n0.25\n",
        "mean state of training proteins\n1.25\n2.25\n0.5\n",
        "zeros\n3.5\n33\n0.75\n",
        "Of what the mean state costs it recovers 50.0% (95% interval 25.0% to 62.5%).",
        "Of what zeros cost it recovers 95.0%.",
    ):
        assert said in seen
    assert "much of what it reads is not in the latents" not in seen


def test_little_recovered_is_a_limit_and_none_has_a_reason(tmp_path):
    little = FIDELITY | {"recovered_of_mean": 0.49}
    assert "keeps 49.0% of what it has over the mean" in text_of(card_of(tmp_path, fidelity=little))
    reason = "the zero ablation costs 0 nats"
    none = FIDELITY | {"recovered_of_zero": None, "recovered_of_zero_reason": reason}
    seen = text_of(card_of(tmp_path, fidelity=none))
    assert f"Of what zeros cost no share recovered can be told: {reason}." in seen


def test_rows_of_whole_proteins_have_no_place_inside_the_encoder(tmp_path):
    seen = text_of(card_of(tmp_path, config=config(pooling="mean")))
    assert "there is none inside the encoder to put a reconstruction for" in seen


def test_limits_are_computed(tmp_path):
    by_id = {"split": {"seed": 0, "similarity_clusters": None}}
    metrics = {
        **{"fvu": 0.5, "pca_fvu": 0.25, "random_dictionary_fvu": 0.9, "dead_share": 0.2},
        **{"unfired_share": 0.3, "unfired_share_expected": 0.1, "test_rows": 9},
    }
    seen = text_of(
        card_of(tmp_path, config=config(training=by_id, pooling="mean"), metrics=metrics)
    )
    for said in (
        "By FVU PCA with 2 components is no worse (0.25 to 0.5).",
        "PCA is better",
        "20.0% of the latents were dead",
        "30.0% of the latents fire on no test row",
        "Proteins were held out one by one",
        "latents say nothing of where",
    ):
        assert said in seen
    assert "random dictionary that was never trained is no worse" not in seen
    untrained = text_of(card_of(tmp_path, config=config(encoder="esmc_demo_untrained")))
    assert "The encoder has random weights: this SAE is a baseline" in untrained


SPLIT = {"split": {"seed": 0, "similarity_clusters": None}}


@pytest.mark.parametrize(
    ("training", "recorded", "held_out"),
    [
        (SPLIT, {"trained_on_these": True}, True),
        (SPLIT, {"trained_on_these": False}, False),
        (SPLIT, {"trained_on_these": None}, False),
        (SPLIT, {}, False),
        ({}, {"trained_on_these": True}, False),
    ],
)
def test_test_rows_were_never_trained_on_only_where_that_is_known(
    tmp_path, training, recorded, held_out
):
    card = card_of(tmp_path, config=config(training=training), metrics={"test_rows": 9, **recorded})
    seen = text_of(card)
    assert ("On 9 test rows, which were never trained on:" in seen) == held_out
    assert ("may have been among the training rows" in seen) == (not held_out)


def test_what_makes_a_variant_is_told_with_its_paper(tmp_path):
    plain = text_of(card_of(tmp_path))
    assert "TopK (Gao et al. 2024, arXiv 2406.04093)\n" in plain
    for absent in ("prefixes", "k while training", "thresholds", "Bussmann", "He et al."):
        assert absent not in plain
    training = {"prefixes": [2, 4], "k_start": 3, "k_anneal": 0.25}
    batch = config(activation="batchtopk", training=training)
    seen = text_of(card_of(tmp_path, np.ones(6), "batchtopk", config=batch))
    for said in (
        "2, in the mean",
        "BatchTopK (Bussmann et al. 2024, arXiv 2412.06410), a threshold for each latent",
        "2, 4: the first N latents, with their rows of the decoder, are a dictionary of their own",
        "Matryoshka SAEs, Bussmann et al. 2025, arXiv 2503.17547",
        "at first 3 times k, falling to k over the first 25.0% of the steps",
        "He et al. 2024, Llama Scope, arXiv 2410.20526",
    ):
        assert said in seen
    jump = config(activation="jumprelu", training={"bandwidth": 0.5, "l0_weight": 2.0})
    seen = text_of(card_of(tmp_path, np.ones(6), "jumprelu", config=jump))
    assert "JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435)" in seen
    assert "in a window of 0.5 around them, in units of the scaled rows" in seen
    assert "weight of the L0 loss 2" in seen


def test_thresholds_and_z_scores_are_in_the_formulas(tmp_path):
    card = card_of(
        tmp_path,
        threshold=np.ones(6),
        activation="jumprelu",
        config=config(activation="jumprelu", normalize=True, normalize_ddof=1),
    )
    assert "z_pre where it is above threshold_L" in card
    assert "`threshold_L` (L)" in card
    assert "times the row's deviation, plus its mean" in card
    assert "ddof 1" in text_of(card)


def test_named_latents_are_counted_with_a_caution(tmp_path):
    latents = {"latents": 6, "firing_latents": 5, "named": 3, "proteins": 40, "scored_labels": 2}
    seen = text_of(card_of(tmp_path, latents=latents | {"kinds": "residue 2, concept 1"}))
    assert (
        "Of 6 latents 5 fire on the 40 proteins of an analysis. 3 have a proposed name, by residue "
        "2, concept 1;"
    ) in seen
    assert "A name is a hypothesis" in seen


HOSTILE = (
    "a | b\n---\n# `x` <script>alert(1)</script> [l](javascript:x) ![i](http://e.org/x) $$ &amp;"
)


def test_foreign_text_stays_text(tmp_path):
    variant = {"prefixes": [HOSTILE], "k_start": HOSTILE, "bandwidth": HOSTILE}
    foreign = config(
        project=HOSTILE,
        encoder=HOSTILE,
        encoder_note=HOSTILE,
        weights_sha256=HOSTILE,
        versions={HOSTILE: HOSTILE},
        training={"devices": {"kind": HOSTILE}, "warmup": HOSTILE, "split": [1], **variant},
    )
    card = card_of(tmp_path, config=foreign)
    assert set(front_matter_of(card)) == {"library_name", "tags"}
    html = MarkdownIt("gfm-like", {"linkify": False}).render(card.partition("\n---\n")[2])
    assert not re.search("<script|<img|href=", html)
    assert html.count("<h1>") == 1
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    by_row = {len(re.findall("<td", row)) for row in re.findall("<tr>.*?</tr>", html, re.DOTALL)}
    assert by_row <= {0, 2}


def test_text_as_code_ends_no_code_span():
    values = {"a": "x_1", "b": "`y`", "c": None}
    shown = render("{{ a | code }} {{ b | code }} {{ c | code }}", values)
    assert shown == r"`x_1` \`y\` unknown"
    assert code("a\nb") == "`a b`"


def test_the_base_models_are_those_of_the_encoders():
    trained = [name for name in encoder_names() if name.startswith("esmc_")]
    assert {name.removesuffix("_untrained") for name in trained} == set(BASE_MODELS)
    for name, model in BASE_MODELS.items():
        assert model is None or model == _from_hub(name.replace("_", "-"))[0][0]
