"""Sharing an SAE: the model card, what it is made from, and the command."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from esm_sae.analysis import measure_model_fidelity
from esm_sae.data import bundled_fasta
from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import read_checkpoint
from esm_sae.formats.manifest import (
    Manifest,
    encode_manifest,
    manifest_beside,
    read_manifest,
)
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, evaluate_sae, load_checkpoint, train_sae
from esm_sae.sequences import sample_fasta
from esm_sae.share import main
from esm_sae.sharing import card_text, manifests_at, share_sae
from esm_sae.sharing.lineage import Lineage, trace
from rendered_cards import front_matter_of, text_of


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
    fidelity = measure_model_fidelity(
        load_checkpoint(trained.product.path),
        encoder,
        large,
        root / "fidelity",
        layer=1,
        similarity_clusters="bundled",
        max_proteins=5,
    )
    return {
        "checkpoint": trained.product.path,
        "metrics": metrics.path,
        "fidelity": fidelity.path,
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
        fidelity=run["fidelity"],
        made_from=lineage,
        license="cc-by-4.0",
        repository="org/name",
    )


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
    fidelity = json.loads((run["fidelity"] / "model_fidelity.json").read_text())
    for name in ("clean", "spliced", "mean", "zero"):
        assert f"\n{fidelity[f'cross_entropy_{name}']:.4g}\n" in seen
    assert f"{fidelity['masked_residues']} masked residues of 5 test proteins" in seen
    assert "unknown" not in seen.replace("is given as unknown", "")


def test_the_front_matter_is_what_the_hub_reads(shared):
    found = front_matter_of((shared.path / "README.md").read_text())
    tags = ["sparse-autoencoder", "protein-language-model", "interpretability", "esm-sae"]
    assert found == {"library_name": "esm-sae", "license": "cc-by-4.0", "tags": tags}


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
        fidelity=run["fidelity"],
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
    with pytest.raises(InputError, match="metrics: metrics of another SAE; measure this one"):
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


def test_model_fidelity_of_something_else_is_refused(run, tmp_path):
    folder = shutil.copytree(run["fidelity"], tmp_path / "fidelity")
    manifest = read_manifest(folder)

    def share_with(**determinants):
        changed = replace(manifest, determinants=manifest.determinants | determinants)
        (folder / "manifest.json").write_bytes(encode_manifest(changed))
        return share_sae(run["checkpoint"], tmp_path / "out", fidelity=folder)

    with pytest.raises(InputError, match="model fidelity of another SAE"):
        share_with(sae="0" * 64)
    with pytest.raises(InputError, match="model fidelity by another split than the training's"):
        share_with(split={"seed": 5, "similarity_clusters": None})
    with pytest.raises(InputError, match="holds no model fidelity of an SAE"):
        share_sae(run["checkpoint"], tmp_path / "out", fidelity=run["metrics"])
    assert share_with().path.joinpath("model_fidelity.json").is_file()
    (folder / "model_fidelity.json").unlink()
    with pytest.raises(InputError, match=r"model_fidelity\.json"):
        share_with()


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
        *("--fidelity", str(run["fidelity"])),
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
