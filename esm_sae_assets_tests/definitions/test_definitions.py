import subprocess
import sys

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.backfill_policy import BackfillPolicyType

from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import load_settings, profile_names
from esm_sae_assets.shard_changes import CHANGES

GROUPS = {
    "sequences": {"uniref50_fasta", "uniref50_10M_sample", "uniref50_1M_sample"},
    "embeddings": {"embedding_shards", CHANGES, "embedding_manifest"},
    "sae": {"sae_checkpoint", "sae_metrics", "sae_release", "sae_comparison"},
    "clusters": {
        "taxonomy_clusters",
        "sampled_sequences",
        "embedded_clusters",
        "embedding_clusters",
        "embedding_clusters_json",
        "embedding_cluster_summary",
    },
    "analysis": {
        "feature_activations",
        "feature_taxonomy",
        "feature_clusters",
        "feature_concepts",
        "feature_summary",
        "concept_annotations",
        "concept_baselines",
    },
    "report": {"feature_report", "embedding_cluster_report"},
}
# Only there where the settings ask for a replicate and an untrained baseline.
WHERE_ASKED_FOR = {
    "embeddings": {"untrained_embeddings"},
    "sae": {"sae_replicate", "sae_untrained"},
    "analysis": {"latent_matches"},
}
WITH_RESIDUES = {"sae_model_fidelity"}
TRAINED = {"sae_checkpoint", *WHERE_ASKED_FOR["sae"]}
OVER_K = {"sae_comparison", "concept_annotations", "concept_baselines", "latent_matches"}
BY_K = {
    *(*TRAINED, *WITH_RESIDUES, "sae_metrics", "sae_release", "feature_report"),
    *GROUPS["analysis"] - OVER_K,
}
ON_GPU = {
    *TRAINED,
    "embedding_shards",
    "untrained_embeddings",
    "sae_metrics",
    "sae_model_fidelity",
    "embedded_clusters",
    "feature_activations",
    "concept_baselines",
    "latent_matches",
}


@pytest.fixture(scope="module", params=profile_names())
def profile(request):
    return load_settings({}, profile=request.param)


@pytest.fixture(scope="module")
def graph(profile):
    return build_defs(profile).resolve_asset_graph()


def test_the_graph_has_the_assets_of_the_design(graph, profile):
    asked_for = WHERE_ASKED_FOR if profile.profile == "demo" else {}
    expected = {group: names | asked_for.get(group, set()) for group, names in GROUPS.items()}
    if profile.embedding.pooling == "residue":
        expected["sae"] |= WITH_RESIDUES
    assert _groups(graph) == expected


def test_only_residue_rows_of_an_encoder_of_this_package_can_be_spliced_in():
    for embedding in ({"pooling": "mean"}, {"encoder": "my_own"}):
        settings = load_settings({}, embedding=embedding, sae={"untrained_baseline": False})
        assert not WITH_RESIDUES & _groups(build_defs(settings).resolve_asset_graph())["sae"]


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"replicate": True}, {"sae_replicate", "latent_matches"}),
        ({"untrained_baseline": True}, {"sae_untrained", "untrained_embeddings"}),
    ],
)
def test_the_full_profile_can_be_asked_for_more(chosen, names):
    settings = load_settings({}, profile="uniref50", sae=chosen)
    found = set().union(*_groups(build_defs(settings).resolve_asset_graph()).values())
    assert found == names.union(*GROUPS.values())


def test_autoencoders_of_a_range_of_k_are_trained_in_one_run(graph):
    for key in graph.get_all_asset_keys():
        policy = graph.get(key).backfill_policy
        in_one = policy is not None and policy.policy_type == BackfillPolicyType.SINGLE_RUN
        assert in_one == (key.to_user_string() in TRAINED), key


def test_a_baseline_is_below_the_metrics_of_its_own_k(graph, profile):
    parents = graph.get(dg.AssetKey("sae_metrics")).parent_keys
    below = {"sae_untrained", "untrained_embeddings"} if profile.sae.untrained_baseline else set()
    assert {key.to_user_string() for key in parents} == {
        "sae_checkpoint",
        "embedding_manifest",
        *below,
    }


def test_partitions(graph, profile):
    for key in graph.get_all_asset_keys():
        name, partitions = key.to_user_string(), graph.get(key).partitions_def
        if name == "embedding_shards":
            assert len(partitions.get_partition_keys()) == profile.shard_count
        elif name in BY_K:
            assert partitions.get_partition_keys() == ["16", "32", "64"]
        else:
            assert partitions is None


def test_full_profile_has_64_shards_named_as_the_files():
    graph = build_defs(load_settings({}, profile="uniref50")).resolve_asset_graph()
    keys = graph.get(dg.AssetKey("embedding_shards")).partitions_def.get_partition_keys()
    assert len(keys) == 64
    assert (keys[0], keys[-1]) == ("0000-of-0064", "0063-of-0064")


def test_edges_between_partition_definitions_name_their_mapping(graph):
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        for parent in node.parent_keys:
            above = graph.get(parent).partitions_def
            if above is None or above == node.partitions_def:
                continue
            mapping = node.assets_def.get_partition_mapping_for_dep(parent)
            assert isinstance(mapping, dg.AllPartitionMapping), (key, parent)


def test_only_the_manifest_depends_on_the_shards(graph):
    for name, children in (
        ("embedding_shards", {CHANGES, "embedding_manifest"}),
        (CHANGES, {"embedding_manifest"}),
    ):
        found = graph.get(dg.AssetKey(name)).child_keys
        assert {key.to_user_string() for key in found} == children


def test_gpu_steps_have_the_pool_and_the_op_tags(graph):
    for key in graph.materializable_asset_keys:
        node, name = graph.get(key), key.to_user_string()
        assert ("gpu" in node.pools) == (name in ON_GPU), name
        tags = node.assets_def.op.tags
        assert ("dagster-k8s/config" in tags) == (name in ON_GPU)
        assert ("dagster-ray/config" in tags) == (name in ON_GPU)
    assert graph.get(dg.AssetKey("embedding_clusters")).pools == {"memory"}


def test_every_asset_that_a_step_makes_has_checks_that_inform(graph):
    checks = [graph.get(key) for key in graph.asset_check_keys]
    assert {check.key.asset_key for check in checks} == graph.materializable_asset_keys
    for check in checks:
        assert check.description, check.key
        assert not check.blocking, check.key
        assert check.partitions_def is None, check.key


def test_every_asset_says_what_it_is(graph):
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.code_version, key


def test_resolving_the_full_profile_materialises_nothing(tmp_path):
    defs = build_defs(profile="uniref50", data_root=str(tmp_path / "data"))
    dg.Definitions.validate_loadable(defs)
    assert list(tmp_path.iterdir()) == []


def test_loading_the_definitions_imports_no_heavy_package():
    code = (
        "import sys, esm_sae_assets.definitions\n"
        "heavy = {'torch', 'jax', 'esm', 'optax', 'hdbscan', 'sklearn', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_dagster_validates_the_workspace():
    checked = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All code locations passed validation" in checked.stdout + checked.stderr


def test_instance_template_limits_pools_and_sends_no_telemetry(tmp_path):
    from esm_sae_assets.demo import prepare_instance

    home = prepare_instance(tmp_path)
    config = yaml.safe_load((home / "dagster.yaml").read_text())
    assert config["telemetry"] == {"enabled": False}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert pools.default_pool_limit == 1
        assert pools.pool_granularity.value == "op"
        assert instance.run_monitoring_enabled
        assert config["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
    assert (tmp_path / ".env").read_text() == f"DAGSTER_HOME={home}\n"


def test_preparing_keeps_what_the_user_changed(tmp_path):
    from esm_sae_assets.demo import prepare_instance

    (tmp_path / ".env").write_text("ESM_SAE_SEED=3\nDAGSTER_HOME=/old/place\n")
    home = prepare_instance(tmp_path)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    prepare_instance(tmp_path)
    assert (home / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
    assert (tmp_path / ".env").read_text() == f"ESM_SAE_SEED=3\nDAGSTER_HOME={home}\n"


def test_a_taxonomy_on_the_web_is_an_asset_that_the_taxa_depend_on():
    chosen = {
        "taxonomy": "https://example.org/pub/taxdump.tar.gz",
        "rank": "genus",
        "organism": "representative",
        "species_list": "https://example.org/docs/speclist.txt",
    }
    graph = build_defs(load_settings({}, clusters=chosen)).resolve_asset_graph()
    node = graph.get(dg.AssetKey("taxonomy_clusters"))
    parents = {key.to_user_string() for key in node.parent_keys}
    assert parents == {"uniref50_10M_sample", "taxonomy", "species_list"}
    assert {"taxonomy", "species_list"} <= _groups(graph)["clusters"]


def test_a_local_taxonomy_that_is_replaced_makes_the_taxa_stale(tmp_path):
    folder = tmp_path / "taxdump"
    folder.mkdir()
    (folder / "nodes.dmp").write_text("1\t|\t1\t|\tno rank\t|\n")
    before = _code_versions(clusters={"taxonomy": str(folder)})
    assert _code_versions(clusters={"taxonomy": str(folder)}) == before
    (folder / "nodes.dmp").write_text("1\t|\t1\t|\tno rank\t|\n2\t|\t1\t|\tdomain\t|\n")
    after = _code_versions(clusters={"taxonomy": str(folder)})
    assert {name for name in before if before[name] != after[name]} == {"taxonomy_clusters"}


def test_a_replicate_leaves_all_else_as_it_is():
    without = _code_versions(sae={"replicate": False})
    assert without.items() <= _code_versions(sae={"replicate": True}).items()


def _groups(graph):
    found = {}
    for key in graph.get_all_asset_keys():
        found.setdefault(graph.get(key).group_name, set()).add(key.to_user_string())
    return found


def _code_versions(**overrides):
    graph = build_defs(load_settings({}, **overrides)).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key).code_version for key in graph.get_all_asset_keys()}
