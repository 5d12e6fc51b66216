"""Sharing an SAE: the model card, what it is made from, and the command."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from esm_sae.data import bundled_fasta
from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder
from esm_sae.embedding.encoders import _from_hub, encoder_names
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig, read_checkpoint, write_checkpoint
from esm_sae.formats.manifest import (
    Manifest,
    encode_manifest,
    manifest_beside,
    read_manifest,
)
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, evaluate_sae, train_sae
from esm_sae.sequences import sample_fasta
from esm_sae.share import main
from esm_sae.sharing import card_text, manifests_at, share_sae
from esm_sae.sharing.card import BASE_MODELS, Known, model_card
from esm_sae.sharing.lineage import Lineage, trace
from esm_sae.sharing.markdown import code, render


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The paths of a small training on bundled proteins, from the sample to the metrics."""
    root = tmp_path_factory.mktemp("run")
    large = sample_fasta(bundled_fasta(), root / "large.fasta", 90, max_length=40).product.path
    small = sample_fasta(large, root / "small.fasta", 60).product.path
    options = EmbeddingOptions(pooling="residue", layer=1, residues_per_protein=4)
    encoder = load_encoder("esmc_demo", device="cpu")
    shards = embed_fasta(small, root / "rows", encoder=encoder, options=options).path
    trained = train_sae(
        open_shards(shards),
        root / "L16_k4",
        TrainOptions(latent_dim=16, k=4, num_epochs=1),
        project="a | *b* <i>",
        similarity_clusters="bundled",
    )
    metrics = evaluate_sae(
        trained.product.path,
        open_shards(shards),
        root / "metrics",
        similarity_clusters="bundled",
    )
    return {
        "checkpoint": trained.product.path,
        "metrics": metrics.path,
        "made_from": [shards, small, large],
    }


@pytest.fixture(scope="module")
def lineage(run):
    return [manifest for path in run["made_from"] for manifest in manifests_at(path)]


@pytest.fixture(scope="module")
def shared(run, lineage, tmp_path_factory):
    return share_sae(
        run["checkpoint"],
        tmp_path_factory.mktemp("out") / "L16_k4",
        metrics=run["metrics"],
        made_from=lineage,
        license="cc-by-4.0",
        repository="org/name",
    )


def text_of(card):
    """Return what a reader of the rendered card sees, a line for each block or cell."""
    body = card.removeprefix("---\n").partition("\n---\n")[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [token for token in tokens if token.type == "inline"]
    return "\n".join(
        "".join(" " if each.type == "softbreak" else each.content for each in token.children or [])
        for token in inline
    )


def front_matter_of(card):
    return yaml.safe_load(card.removeprefix("---\n").partition("\n---\n")[0])


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


def test_the_card_has_the_figures_of_the_records(run, shared):
    card = (shared.path / "README.md").read_text()
    seen = text_of(card)
    trained, metrics = read_manifest(run["checkpoint"]).summary, read_manifest(run["metrics"])
    for figure in (
        f"Rows: {trained['training_rows']} trained on, {trained['validation_rows']} for",
        f"{sum(trained[f'{name}_rows'] for name in ('training', 'validation', 'test'))} rows of 60",
        "of each protein 4 residues were drawn",
        "60 drawn uniformly (seed 0) from 90 records",
        "Swiss-Prot and TrEMBL",
        "connected components of pairs with 30% identity",
        f"On {metrics.summary['test_rows']} test rows",
        "esmc_demo: a small demonstration model",
        "The UniProt Consortium, CC BY 4.0",
        "The files here are under cc-by-4.0",
    ):
        assert figure in seen
    for name in ("fvu", "pca_fvu", "random_dictionary_fvu", "train_fvu"):
        assert f"{metrics.summary[name]:.4g}" in seen
    assert "unknown" not in seen.replace("is given as unknown", "")


def test_the_front_matter_is_what_the_hub_reads(shared, tmp_path):
    found = front_matter_of((shared.path / "README.md").read_text())
    tags = ["sparse-autoencoder", "protein-language-model", "interpretability", "esm-sae"]
    assert found == {"library_name": "esm-sae", "license": "cc-by-4.0", "tags": tags}
    hub = front_matter_of(card_of(tmp_path, config=config(encoder="esmc_600m")))
    assert hub["base_model"] == "EvolutionaryScale/esmc-600m-2024-12"
    assert "license" not in hub


def test_the_code_in_the_card_works(shared, tmp_path):
    card = (shared.path / "README.md").read_text()
    block = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    assert '"hf://org/name"' in block
    found = {}
    exec(block.replace("hf://org/name", str(shared.path)), found)
    assert found["rows"].shape == found["again"].shape == (22, 256)
    assert found["values"].shape == (22, 4)


def test_the_same_records_give_the_same_bytes_in_any_order(run, lineage, shared, tmp_path):
    again = share_sae(
        run["checkpoint"],
        tmp_path / "again",
        metrics=run["metrics"],
        made_from=lineage[::-1],
        license="cc-by-4.0",
        repository="hf://org/name",
    )
    for name in again.manifest.files:
        assert (again.path / name).read_bytes() == (shared.path / name).read_bytes()
    assert again.manifest == shared.manifest


def test_nothing_of_the_machine_is_in_any_file(run, shared):
    for path in shared.path.iterdir():
        content = path.read_bytes()
        assert str(run["checkpoint"].parent).encode() not in content
        assert b"/tmp" not in content


def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    seen = text_of(card_of(tmp_path))
    for said in (
        "Embeddings: unknown; fingerprint unknown.",
        "Sequences: unknown.",
        "Source: unknown.",
        "Split: unknown.",
        "Rows: unknown trained on",
        "Unknown: no metrics were given.",
        "Unknown to this card: no analysis was given.",
        "No licence is stated for the files here",
        "How rows were held out is unknown",
    ):
        assert said in seen
    assert 'np.load("rows.npy")' in card_of(tmp_path)


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


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/home/someone/secret/uniref50.fasta.gz", "uniref50.fasta.gz"),
        ("file:///home/someone/x.fasta", "x.fasta"),
        ("https://me:pw@ftp.example.org/x.gz?token=abc", "https://ftp.example.org/x.gz?token=..."),
        ("", None),
    ],
)
def test_a_source_is_named_without_paths_and_secrets(location, shown):
    source = Manifest("source", "0", {}, {}, {"source": location, "sha256": "1"})
    assert Lineage(source=source).source_name == shown


def test_the_lineage_goes_from_hash_to_hash(run, lineage):
    found = trace(read_checkpoint(run["checkpoint"]).config, lineage)
    assert found.embeddings.summary["proteins"] == 60
    assert found.shard.determinants["options"]["residues_per_protein"] == 4
    assert [sample.summary["sampled"] for sample in found.samples] == [60, 90]
    assert found.is_bundled
    assert found.source is None


def test_what_is_of_another_sae_is_left_out_with_a_warning(run, lineage):
    other = replace(read_checkpoint(run["checkpoint"]).config, data_fingerprint="0" * 64)
    with pytest.warns(UserWarning, match="^4 of the manifests given are not of what") as warned:
        assert trace(other, lineage) == Lineage()
    assert len(warned) == 1
    for manifest in lineage:
        assert f"{manifest.kind} {manifest.fingerprint[:12]}" in str(warned[0].message)


def test_metrics_of_another_sae_are_refused(run, tmp_path):
    other = shutil.copytree(run["checkpoint"], tmp_path / "other")
    path = other / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"config\.json: is not the file that manifest.json"):
        share_sae(other, tmp_path / "out", metrics=run["metrics"])
    foreign = tmp_path / "L16_k4" / "w.npy"
    foreign.parent.mkdir()
    shutil.copyfile(read_checkpoint(run["checkpoint"]).path, foreign)
    with pytest.raises(InputError, match="metrics: metrics of another SAE; evaluate this one"):
        share_sae(foreign, tmp_path / "out", metrics=evaluated_elsewhere(run, tmp_path))
    with pytest.raises(InputError, match="holds no metrics of an SAE"):
        share_sae(foreign, tmp_path / "out", metrics=run["checkpoint"])
    assert not (tmp_path / "out").exists()


def evaluated_elsewhere(run, tmp_path):
    """Return metrics that name another checkpoint."""
    folder = shutil.copytree(run["metrics"], tmp_path / "metrics")
    manifest = folder / "manifest.json"
    sae = read_checkpoint(run["checkpoint"]).fingerprint
    manifest.write_text(manifest.read_text().replace(sae, "0" * 64))
    return folder


def test_metrics_by_another_split_are_refused(run, tmp_path):
    shards = open_shards(run["made_from"][0])
    bare = tmp_path / "L16_k4" / "w.npy"
    bare.parent.mkdir()
    shutil.copyfile(read_checkpoint(run["checkpoint"]).path, bare)
    with pytest.warns(UserWarning, match="does not tell"):
        metrics = evaluate_sae(bare, shards, tmp_path / "metrics", split_seed=5).path
    with pytest.raises(InputError, match="metrics by another split than the training's"):
        share_sae(run["checkpoint"], tmp_path / "out", metrics=metrics)


def test_a_manifest_that_does_not_tell_of_the_config_is_refused(run, tmp_path):
    other = shutil.copytree(run["checkpoint"], tmp_path / "other")
    manifest = read_manifest(other)
    files = {name: entry for name, entry in manifest.files.items() if name != "config.json"}
    (other / "manifest.json").write_bytes(encode_manifest(replace(manifest, files=files)))
    with pytest.raises(InputError, match=r"config\.json: is not what the training wrote"):
        share_sae(other, tmp_path / "out")


def test_the_metrics_of_the_checkpoint_are_those_of_its_shared_form(run, shared, tmp_path):
    again = share_sae(shared.path, tmp_path / "again", metrics=run["metrics"])
    assert (again.path / "metrics.json").read_bytes() == (
        run["metrics"] / "metrics.json"
    ).read_bytes()


def test_an_analysis_is_counted_if_it_is_of_the_checkpoint(run, fake_sae, analysis_run, tmp_path):
    sae = fake_sae()
    sae.fingerprint = read_checkpoint(run["checkpoint"]).fingerprint
    counts = read_manifest(manifest_beside(analysis_run(sae)["summary"])).summary
    shared = share_sae(run["checkpoint"], tmp_path / "out", analysis=tmp_path)
    named = sum(count for kind, count in counts["labels"].items() if kind != "none")
    said = (
        f"Of 24 latents {counts['firing_latents']} fire on the 18 proteins of an analysis. {named}"
    )
    assert said in text_of((shared.path / "README.md").read_text())
    again = share_sae(shared.path, tmp_path / "again", analysis=tmp_path)
    assert said in text_of((again.path / "README.md").read_text())
    sae.fingerprint = "another"
    analysis_run(sae)
    with pytest.raises(InputError, match="an analysis of another checkpoint; analyse this one"):
        share_sae(shared.path, tmp_path / "other", analysis=tmp_path)


def test_an_analysis_must_be_finished(run, tmp_path):
    with pytest.raises(InputError, match="holds no finished analysis"):
        share_sae(run["checkpoint"], tmp_path / "out", analysis=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": "My own"}, "licence 'My own': expected an identifier of the hub"),
        ({"repository": "name"}, "^repository 'name': expected ORG/NAME of the hub"),
        ({"repository": "a/b@v1"}, "^repository 'a/b@v1': expected ORG/NAME of the hub, without"),
    ],
)
def test_identifiers_are_checked(run, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        share_sae(run["checkpoint"], tmp_path / "out", **change)


def test_the_command_writes_the_same_bytes(run, shared, tmp_path, capsys):
    made_from = [str(path) for path in run["made_from"]]
    made_from[1] = str(manifest_beside(made_from[1]))
    line = [
        *("--checkpoint", str(run["checkpoint"]), "--metrics", str(run["metrics"])),
        *("--made_from", *made_from, "--license", "cc-by-4.0", "--repository", "org/name"),
        *("--output", str(tmp_path / "out")),
    ]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "16 latents, k = 4, on esmc_demo; licence: cc-by-4.0" in printed
    for name in shared.manifest.files:
        assert (tmp_path / "out" / name).read_bytes() == (shared.path / name).read_bytes()
    assert main(line) == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert main([*line[:-2], "--output", str(run["checkpoint"])]) == 2
    assert "holds files that are no earlier sae_release" in capsys.readouterr().err
    assert main([*line, "--made_from", str(tmp_path / "x.fasta")]) == 2
    assert "x.fasta: no such file or folder" in capsys.readouterr().err
    (tmp_path / "x.fasta").touch()
    assert main([*line, "--made_from", str(tmp_path / "x.fasta")]) == 2
    assert "x.fasta: has no manifest" in capsys.readouterr().err


def test_the_card_is_shown_without_its_front_matter(shared):
    assert card_text(shared.path).startswith("# Sparse autoencoder, 16 latents, k = 4")


def test_the_base_models_are_those_of_the_encoders():
    trained = [name for name in encoder_names() if name.startswith("esmc_")]
    assert {name.removesuffix("_untrained") for name in trained} == set(BASE_MODELS)
    for name, model in BASE_MODELS.items():
        assert model is None or model == _from_hub(name.replace("_", "-"))[0][0]
