"""Each asset function called directly, on the outputs of the small graph."""

import hashlib
import inspect
import io
import re
import shutil
import tarfile

import dagster as dg
import polars as pl
import pytest

from esm_sae_assets.definitions import build_defs

PARTITIONED = {
    "embedding_shards": "0000-of-0002",
    "sae_checkpoint": "4",
    "sae_replicate": "4",
    "sae_untrained": "4",
    "sae_metrics": "4",
    "sae_release": "4",
    "sae_model_fidelity": "4",
    "feature_activations": "4",
    "feature_taxonomy": "4",
    "feature_clusters": "4",
    "feature_concepts": "4",
    "feature_summary": "4",
    "feature_report": "4",
}
UNPARTITIONED = [
    "uniref50_fasta",
    "uniref50_10M_sample",
    "uniref50_1M_sample",
    "embedding_manifest",
    "untrained_embeddings",
    "sae_comparison",
    "taxonomy_clusters",
    "sampled_sequences",
    "embedded_clusters",
    "embedding_clusters",
    "embedding_clusters_json",
    "embedding_cluster_summary",
    "embedding_cluster_report",
    "concept_annotations",
    "concept_baselines",
    "latent_matches",
]


@pytest.mark.parametrize("name", [*UNPARTITIONED, *PARTITIONED])
def test_called_directly_on_the_same_inputs_it_says_unchanged(small_graph, name):
    settings, _, _ = small_graph
    result = _call(settings, name)
    assert result.metadata["unchanged"] is True
    assert result.metadata["size_mb"] > 0
    assert result.data_version.value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uniref50_10M_sample", "no source of sequences was provided"),
        ("embedding_shards", "uniref50_1M_sample.fasta: no such file"),
        ("embedding_manifest", "embeddings3: no such directory"),
        ("untrained_embeddings", "uniref50_1M_sample.fasta: no such file"),
        ("sae_checkpoint", "embeddings3: no such directory"),
        ("sae_replicate", "embeddings3: no such directory"),
        ("sae_untrained", "embeddings_untrained: no such directory"),
        ("embedded_clusters", "sampled_sequences.json: no such file"),
        ("feature_activations", "L64_k4"),
        ("concept_annotations", "uniref50_1M_sample.fasta: no such file"),
        ("latent_matches", "L64_k4"),
        ("sae_model_fidelity", "L64_k4"),
    ],
)
def test_without_its_input_it_fails_in_one_clear_line(settings_of, tmp_path, name, message):
    settings = settings_of(tmp_path / "data")
    with pytest.raises(dg.Failure) as caught:
        _call(settings, name)
    assert message in caught.value.description
    assert "\n" not in caught.value.description
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == []


def test_a_fasta_that_is_none_fails_the_step_with_that_line(settings_of, tmp_path):
    source = tmp_path / "notes.txt"
    source.write_text("these are my notes\n")
    settings = settings_of(tmp_path / "data").model_copy(update={"source": str(source)})
    with pytest.raises(dg.Failure) as caught:
        _call(settings, "uniref50_fasta")
    assert "does not start with '>'" in caught.value.description


def test_the_settings_narrow_the_large_sample(settings_of, tmp_path):
    settings = settings_of(
        tmp_path / "data",
        samples={"letters": "ACDEFGHIKLMNPQRSTVW", "taxa": "1,Taxon 1", "drop_identical": True},
    )
    _call(settings, "uniref50_fasta")
    with pytest.raises(dg.Failure) as caught:
        _call(settings, "uniref50_10M_sample")
    reasons = "other letters and .* no taxon and .* another taxon and 0 identical sequence"
    assert re.search(reasons, caught.value.description)
    settings = settings_of(tmp_path / "data", samples={"letters": "ACDEFGHIKLMNPQRSTVWY"})
    sampled = _call(settings, "uniref50_10M_sample").metadata
    dropped = {name: count for name, count in sampled.items() if name.startswith("dropped: ")}
    assert set(dropped) == {"dropped: too short", "dropped: too long", "dropped: other letters"}
    assert sampled["read"] == sampled["sampled"] + sum(dropped.values())
    assert sampled["composition"].value.startswith("![sample](data:image/png;base64,")


def test_a_source_on_the_web_is_downloaded_and_sampled(settings_of, serve, small_source, tmp_path):
    served, address = serve
    content = small_source.read_bytes()
    (served / "uniref50.fasta.gz").write_bytes(content)
    (served / "RELEASE.metalink").write_text(
        '<metalink version="3.0" xmlns="http://www.metalinker.org/"><version>2026_05</version>'
        '<files><file name="uniref50.fasta.gz"><verification><hash type="md5">'
        f"{hashlib.md5(content).hexdigest()}</hash></verification></file></files></metalink>"
    )
    settings = settings_of(tmp_path / "data").model_copy(
        update={"source": f"{address}/uniref50.fasta.gz"}
    )
    downloaded = _call(settings, "uniref50_fasta")
    assert downloaded.data_version.value.startswith("2026_05-")
    assert downloaded.metadata["release"] == "2026_05"
    assert downloaded.metadata["verified"] is True
    assert [one.passed for one in downloaded.check_results] == [True]
    assert (tmp_path / "data" / "uniref50.fasta.gz").read_bytes() == content
    assert _call(settings, "uniref50_10M_sample").metadata["sampled"] > 0
    assert _call(settings, "uniref50_fasta").metadata["unchanged"] is True


def test_a_taxonomy_on_the_web_is_downloaded_and_lifts_the_taxa(
    settings_of, serve, small_graph, tmp_path
):
    served, address = serve
    root = tmp_path / "data"
    made, _, _ = small_graph
    proteins = pl.read_parquet(made.root / "uniref50_10M_sample.index.parquet")
    _write_taxdump(served / "taxdump.tar.gz", proteins["taxon"].unique().sort().to_list())
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns("L64*", "embeddings*"))
    chosen = {"taxonomy": f"{address}/taxdump.tar.gz", "rank": "genus"}
    settings = settings_of(root, clusters=chosen)
    taxonomy = _call(settings, "taxonomy")
    assert taxonomy.metadata["bytes"] > 0
    assert [one.passed for one in taxonomy.check_results] == [True]
    lifted = _call(settings, "taxonomy_clusters")
    assert lifted.metadata["clusters"] == 2
    assert [one.passed for one in lifted.check_results] == [True, True]
    genera = pl.read_parquet(root / "taxonomy_clusters.parquet")
    assert set(genera["cluster"]) == {"Alpha", "Beta"}
    assert set(genera["taxid"]) == {50, 60}
    assert _call(settings, "taxonomy").metadata["unchanged"] is True


def _write_taxdump(path, species):
    """Write an NCBI taxonomy of the given species, which are in two genera by turns."""
    nodes = [(1, 1, "no rank"), (2, 1, "domain"), (50, 2, "genus"), (60, 2, "genus")]
    names = {1: "root", 2: "Bacteria", 50: "Alpha", 60: "Beta"}
    for number, name in enumerate(species):
        nodes.append((1000 + number, 50 + 10 * (number % 2), "species"))
        names[1000 + number] = name
    files = {
        "nodes.dmp": ["\t|\t".join(map(str, node)) for node in nodes],
        "names.dmp": [f"{id}\t|\t{name}\t|\t\t|\tscientific name" for id, name in names.items()],
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, lines in files.items():
            content = "".join(f"{line}\t|\n" for line in lines).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _call(settings, name):
    defs = build_defs(settings)
    asset = next(each for each in defs.assets if each.key == dg.AssetKey(name))
    parameters = inspect.signature(asset.op.compute_fn.decorated_fn).parameters
    arguments = {key: defs.resources[key] for key in parameters if key in defs.resources}
    if "config" in parameters:
        arguments["config"] = parameters["config"].annotation()
    if "context" not in parameters:
        return asset(**arguments)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_asset_context(partition_key=PARTITIONED[name], instance=instance) as context,
    ):
        returned = asset(context, **arguments)
        if not inspect.isgenerator(returned):
            return returned
        (only,) = (each for each in returned if isinstance(each, dg.MaterializeResult))
        return only
