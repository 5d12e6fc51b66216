"""What the pages of the small graph's assets show."""

import fnmatch
import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from esm_sae.formats.columns import describe_columns, tables_among
from esm_sae_assets.definitions import build_defs

# What an entry of the page may be wide; Dagster cuts off the rest.
WIDEST_NAME = 26


@pytest.fixture(scope="module")
def pages(small_graph):
    """The metadata of each asset's latest materialisation."""
    settings, instance, _ = small_graph
    graph = build_defs(settings).resolve_asset_graph()
    return {
        key.to_user_string(): instance.get_latest_materialization_event(
            key
        ).asset_materialization.metadata
        for key in graph.get_all_asset_keys()
        if not graph.get(key).is_external
    }


def test_every_column_of_every_table_is_described(small_graph):
    settings, _, _ = small_graph
    tables = list(_tables(settings.root))
    assert len({kind for kind, _, _ in tables}) > 15
    for kind, name, path in tables:
        columns = set(pl.read_parquet_schema(path))
        assert columns <= describe_columns(kind, name).keys(), path


def test_no_column_is_described_that_no_table_has(small_graph):
    from esm_sae.formats import columns

    settings, _, _ = small_graph
    there = [
        (kind, name, set(pl.read_parquet_schema(path)))
        for kind, name, path in _tables(settings.root)
    ]
    described = dict(columns._content())
    common = described.pop("common")
    assert common.keys() <= set().union(*(schema for _, _, schema in there))
    for kind, tables in described.items():
        for pattern, texts in tables.items():
            schemas = [
                schema
                for found, name, schema in there
                if found == kind and fnmatch.fnmatchcase(name, pattern)
            ]
            assert schemas, (kind, pattern)
            assert texts.keys() <= set().union(*schemas), (kind, pattern)


def test_columns_are_shown_with_type_and_meaning(pages):
    for name, page in pages.items():
        for label, entry in page.items():
            if isinstance(entry, dg.TableSchemaMetadataValue):
                for column in entry.schema.columns:
                    assert column.description, (name, label, column.name)
                    assert len(column.type) < 30, (name, label, column.type)


def test_every_table_of_an_output_is_shown(pages):
    for name, page in pages.items():
        manifest = json.loads(Path(page["manifest"].value).read_text())
        found = [entry for entry in page.values() if isinstance(entry, dg.TableSchemaMetadataValue)]
        assert len(found) == len(tables_among(manifest["kind"], manifest["files"])), name


def test_column_lineage_names_columns_that_there_are(pages):
    shown = {
        name: {column.name for column in page["dagster/column_schema"].schema.columns}
        for name, page in pages.items()
        if "dagster/column_schema" in page
    }
    traced = 0
    for name, page in pages.items():
        lineage = page.get("dagster/column_lineage")
        if lineage is None:
            continue
        for column, sources in lineage.value.deps_by_column.items():
            assert column in shown[name], (name, column)
            for source in sources:
                asset = source.asset_key.to_user_string()
                assert source.column_name in shown[asset], (name, column, asset)
                traced += 1
    assert traced > 60


def test_column_lineage_goes_up_the_graph(pages, small_graph):
    settings, _, _ = small_graph
    graph = build_defs(settings).resolve_asset_graph()
    for name, page in pages.items():
        lineage = page.get("dagster/column_lineage")
        above = {key.to_user_string() for key in _ancestors(graph, dg.AssetKey(name))}
        for sources in lineage.value.deps_by_column.values() if lineage else ():
            assert {source.asset_key.to_user_string() for source in sources} <= above, name


def test_a_column_says_where_it_comes_from(pages):
    schema = pages["taxonomy_clusters"]["dagster/column_schema"].schema
    (cluster,) = (column for column in schema.columns if column.name == "cluster")
    named = "From uniref50_10M_sample.taxid, uniref50_10M_sample.taxon."
    assert (cluster.description or "").endswith(named)


def test_nothing_is_shown_as_json_and_names_are_not_cut_off(pages):
    for name, page in pages.items():
        for label, entry in page.items():
            assert not isinstance(entry, dg.JsonMetadataValue), (name, label)
            longest = max(map(len, label.replace("-", " ").split()))
            assert label.startswith("dagster/") or longest <= WIDEST_NAME, (name, label)


def test_what_is_followed_over_time_is_a_number(pages):
    followed = {
        "uniref50_1M_sample": ["dagster/row_count", "sampled"],
        "embedding_shards": ["dagster/row_count", "norm_median"],
        "sae_checkpoint": ["validation_fvu", "dead_share", "samples_per_second"],
        "sae_metrics": ["fvu", "dead_share", "l0_mean"],
        "sae_model_fidelity": ["cross_entropy_spliced", "kl_spliced", "masked_residues"],
        "sae_comparison": ["fvu at k = 4", "fvu at k = 8", "dead_share at k = 8"],
        "embedding_clusters": ["dagster/row_count", "noise_share"],
    }
    for name, page in pages.items():
        for label in ["seconds", "peak_memory_mb", "size_mb", *followed.get(name, [])]:
            entry = page[label]
            assert isinstance(entry, dg.IntMetadataValue | dg.FloatMetadataValue), (name, label)


def test_the_comparison_is_one_table(pages):
    page = pages["sae_comparison"]
    heading, _, *rows = page["by_k"].value.splitlines()
    assert heading.startswith("| k | fvu | pca\\_fvu | random\\_dictionary\\_fvu |")
    assert [row.split(" | ")[0] for row in rows] == ["| 4", "| 8"]
    assert "fvu" not in page


def _tables(root):
    for path in sorted(root.rglob("*.json")):
        content = json.loads(path.read_text())
        if not isinstance(content, dict) or not {"kind", "files", "fingerprint"} <= content.keys():
            continue
        for name in content["files"]:
            if name.endswith(".parquet"):
                yield content["kind"], name, path.parent / name


def _ancestors(graph, key):
    parents = graph.get(key).parent_keys
    return set(parents).union(*(_ancestors(graph, parent) for parent in parents))
