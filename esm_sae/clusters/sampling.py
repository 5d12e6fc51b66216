"""Samples of equal size from the large clusters."""

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from esm_sae import storage
from esm_sae.clusters.length_match import LEAST_PER_CLUSTER, length_spread, matched_bins
from esm_sae.clusters.members import Members
from esm_sae.clusters.sources import member_source
from esm_sae.errors import InputError
from esm_sae.formats.clusters_json import write_sequences
from esm_sae.formats.manifest import Product, manifest_beside, produce_files

_ALGORITHM = "subsample-2"
_LARGEST = 10


def subsample_clusters(
    clusters: storage.PathLike,
    output_json: storage.PathLike,
    *,
    fasta: storage.PathLike | None = None,
    min_size: int,
    per_cluster: int,
    min_length: int = 1,
    max_length: int | None = None,
    match_lengths: bool = False,
    seed: int = 0,
) -> Product:
    """Draw members of every large enough cluster; write ``{cluster: [[sequence, header], ...]}``.

    Members are drawn uniformly, without replacement, by a generator seeded with ``seed`` and
    the cluster's name: another cluster more or less changes nothing in the others. A cluster
    JSON and a table with its FASTA give the same bytes. Clusters stand largest first, ties by
    name, members in file order. Noise (``"-1"``) is skipped.

    With ``match_lengths`` every cluster's sample has the same number of members in each bin of
    length, drawn uniformly within the bin, so that length cannot pose as what tells the clusters
    apart. ``length_match.matched_bins`` says which bins; a cluster that has too few members in
    one is left out and counted. Bins and numbers depend on all clusters that are large enough.

    Memory is bounded by some 60 bytes a member, the names of the clusters and the sample; for a
    table without offsets also by its ids and the FASTA's.

    Args:
        clusters: cluster JSON, or cluster table (parquet).
        output_json: the file to write.
        fasta: for a table, the FASTA with the sequences; by default the one recorded in it.
        min_size: members within the length range that a cluster must have.
        per_cluster: members drawn of each; a cluster that has fewer gives all, or is left out
            where lengths are matched.
        min_length: shortest sequence counted, in residues.
        max_length: longest sequence counted, in residues; None for no limit.
        match_lengths: whether all samples are to have the same lengths, up to the width of a bin.
        seed: of the draw.

    Raises:
        InputError: an option is out of range, the input cannot be used, or no cluster is large
            enough (the largest size is named) or has enough members of all lengths.
    """
    limits = _Limits(min_size, per_cluster, min_length, max_length, match_lengths)
    limits.require_possible()
    target = Path(output_json)
    load, inputs = member_source(clusters, fasta)

    def build(temporaries: list[Path]) -> dict[str, Any]:
        source = load()
        pools = _Pools(source.members, limits)
        if not len(pools.large):
            raise _none_large_enough(clusters, pools, min_size)
        drawn = _draw_matched(pools, seed, clusters) if match_lengths else _draw(pools, seed)
        pairs = source.pairs(np.concatenate(drawn.rows))
        write_sequences(temporaries[0], _by_cluster(source.members, drawn, pairs))
        return {
            "clusters": len(drawn.rows),
            "sequences": len(pairs),
            "incomplete_clusters": sum(len(rows) < per_cluster for rows in drawn.rows),
            **pools.facts(),
            "lengths": _lengths_of(source.members, drawn.rows),
            **drawn.facts,
        }

    return produce_files(
        [target],
        manifest=manifest_beside(target),
        kind="cluster_sample",
        determinants={
            **inputs,
            "options": limits._asdict(),
            "seed": seed,
            "algorithm": _ALGORITHM,
        },
        build=build,
    )


class _Limits(NamedTuple):
    """The options of ``subsample_clusters`` that say what is drawn."""

    min_size: int
    per_cluster: int
    min_length: int
    max_length: int | None
    match_lengths: bool

    def require_possible(self) -> None:
        _require_range("min_size", self.min_size, 1)
        _require_range("per_cluster", self.per_cluster, 1)
        _require_range("min_length", self.min_length, 1)
        if self.max_length is not None:
            _require_range("max_length", self.max_length, self.min_length)
        if self.match_lengths and self.per_cluster < LEAST_PER_CLUSTER:
            raise InputError(
                f"per_cluster is {self.per_cluster}; to match lengths it must be at least "
                f"{LEAST_PER_CLUSTER}"
            )


class _Pools:
    """The members that can be drawn, by cluster.

    Attributes:
        members: all members.
        limits: what is drawn.
        sizes: (K,) how many members of each cluster are within the length range.
        large: the clusters that are large enough, largest first.
    """

    def __init__(self, members: Members, limits: _Limits) -> None:
        self.members = members
        self.limits = limits
        self._noise = members.noise()
        self._in_range = ~self._noise & (members.lengths >= limits.min_length)
        if limits.max_length is not None:
            self._in_range &= members.lengths <= limits.max_length
        self.sizes = members.sizes(self._in_range)
        order = members.by_size(self.sizes)
        self.large = order[self.sizes[order] >= limits.min_size]
        is_large = np.zeros(len(members.names), dtype=bool)
        is_large[self.large] = True
        rows = np.flatnonzero(self._in_range & is_large[members.clusters])
        self._rows = rows[np.argsort(members.clusters[rows], kind="stable")]
        self._ends = np.cumsum(np.where(is_large, self.sizes, 0))

    def of(self, cluster: int) -> np.ndarray:
        """Return the members of a large cluster that can be drawn, ascending."""
        end = self._ends[cluster]
        return self._rows[end - self.sizes[cluster] : end]

    def all(self) -> np.ndarray:
        """Return the members of all large clusters that can be drawn."""
        return self._rows

    def facts(self) -> dict[str, Any]:
        """Say what there was and what is not drawn from."""
        outside = ~self._noise & ~self._in_range
        return {
            "dropped_clusters": int((self.members.sizes(~self._noise) > 0).sum()) - len(self.large),
            "outside_length_range": int(outside.sum()),
            "noise": int(self._noise.sum()),
            "largest": self.members.described(self.large[:_LARGEST], self.sizes),
        }


class _Drawn(NamedTuple):
    """The clusters of a sample in its order, the members drawn of each, and more facts."""

    clusters: np.ndarray
    rows: list[np.ndarray]
    facts: dict[str, Any]


def _draw(pools: _Pools, seed: int, clusters: np.ndarray | None = None) -> _Drawn:
    """Draw of the large clusters, or of some of them."""
    clusters = pools.large if clusters is None else clusters
    count = pools.limits.per_cluster
    rows = []
    for cluster in clusters:
        there = pools.of(cluster)
        if len(there) > count:
            there = _choose(_generator(seed, pools.members.names[cluster]), there, count)
        rows.append(there)
    return _Drawn(clusters, rows, {})


def _draw_matched(pools: _Pools, seed: int, path: storage.PathLike) -> _Drawn:
    """Draw members of the same lengths of all large clusters that have them."""
    members, limits = pools.members, pools.limits
    bins, filling = matched_bins(members, pools.all(), pools.large, limits.per_cluster)
    if not len(filling):
        raise InputError(
            f"{os.fspath(path)}: none of {len(pools.large)} clusters has enough members of all "
            f"lengths for {limits.per_cluster} of common lengths; lower --per_cluster, raise "
            "--min_size or leave out --match_lengths"
        )
    rows = []
    for cluster in filling:
        there = pools.of(cluster)
        bin_of = bins.of(members.lengths[there])
        generator = _generator(seed, members.names[cluster])
        drawn = [
            _choose(generator, there[bin_of == number], quota)
            for number, quota in enumerate(bins.quotas.tolist())
        ]
        rows.append(np.sort(np.concatenate(drawn)))
    facts = {
        "lengths_without_match": _lengths_of(members, _draw(pools, seed, filling).rows),
        "length_bins": bins.described(),
        "clusters_without_common_lengths": len(pools.large) - len(filling),
    }
    return _Drawn(filling, rows, facts)


def _generator(seed: int, cluster: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}:{cluster}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _choose(generator: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    drawn = generator.choice(len(rows), size=count, replace=False, shuffle=False)
    return rows[np.sort(drawn)]


def _by_cluster(
    members: Members, drawn: _Drawn, pairs: list[tuple[str, str]]
) -> dict[str, list[tuple[str, str]]]:
    rest = iter(pairs)
    return {
        members.names[cluster]: list(itertools.islice(rest, len(rows)))
        for cluster, rows in zip(drawn.clusters, drawn.rows, strict=True)
    }


def _lengths_of(members: Members, rows: list[np.ndarray]) -> dict[str, float]:
    sample = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return length_spread(members.lengths[np.concatenate(rows)], sample)


def _none_large_enough(path: storage.PathLike, pools: _Pools, min_size: int) -> InputError:
    sizes = pools.sizes
    if not sizes.any():
        largest = "there is no member at all in the length range outside noise"
    else:
        first = pools.members.by_size(sizes)[0]
        largest = f"the largest, '{pools.members.names[first][:60]}', has {sizes[first]}"
    return InputError(
        f"{os.fspath(path)}: no cluster has {min_size} members in the length range, "
        f"{largest}; lower --min_size"
    )


def _require_range(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{option} is {value}; it must be at least {least}")
