import numpy as np

from esm_sae.analysis.taxonomy.units import cluster_units

TAXA = np.repeat([0, 1], 6)
CLUSTERS = np.array(["a", "a", "a", "b", "c", "c"] * 2, dtype=object)
IDS = [f"id{number}" for number in range(12)]


def test_one_protein_of_each_taxon_and_cluster_is_drawn():
    drawn = cluster_units(TAXA, CLUSTERS, IDS)
    assert drawn.tolist() == sorted(drawn.tolist())
    pairs = {(TAXA[protein], CLUSTERS[protein]) for protein in drawn}
    assert len(drawn) == len(pairs) == 6


def test_the_order_of_proteins_has_no_say():
    order = np.random.default_rng(0).permutation(12)
    shuffled = cluster_units(TAXA[order], CLUSTERS[order], [IDS[place] for place in order])
    assert sorted(order[shuffled]) == cluster_units(TAXA, CLUSTERS, IDS).tolist()


def test_every_member_is_as_likely():
    counts = np.zeros(12)
    for seed in range(200):
        counts[cluster_units(TAXA, CLUSTERS, IDS, seed=seed)] += 1
    assert (counts[CLUSTERS == "b"] == 200).all()
    assert (np.abs(counts[CLUSTERS == "a"] - 200 / 3) < 25).all()
    assert (np.abs(counts[CLUSTERS == "c"] - 100) < 25).all()


def test_clusters_may_be_numbers_and_ids_may_repeat():
    drawn = cluster_units(np.zeros(4, dtype=int), np.array([7, 7, 8, 8]), ["x", "x", "y", "y"])
    assert drawn.tolist() == [0, 2]
