"""Which latents SAEs of other seeds share, for the same and for other k."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from esm_sae import storage
from esm_sae.analysis.encoder import EmbeddingRows, identity_of_encoding
from esm_sae.analysis.latents.correlation import LatentColumns
from esm_sae.analysis.latents.directions import DecodingSAE, directions_of, live_latents
from esm_sae.analysis.latents.held_out_rows import (
    encode_columns,
    held_out_rows,
)
from esm_sae.analysis.latents.match_figure import match_figure
from esm_sae.analysis.latents.match_tables import (
    comparison_table,
    match_table,
    stability_table,
    summary_of,
)
from esm_sae.analysis.latents.pair_matches import LiveLatents, PairMatch, match_pair
from esm_sae.analysis.latents.splits import split_latents
from esm_sae.errors import InputError
from esm_sae.formats.analysis_tables import (
    MAIN,
    MATCH_COMPARISON,
    MATCH_FIGURE,
    MATCHES,
    REPLICATE,
    SPLITS,
    STABILITY,
)
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.manifest import Product, produce_folder
from esm_sae.progress import progress
from esm_sae.recorded_split import require_held_out
from esm_sae.split import identity_of_clusters

_ALGORITHM = "latent-matches-1"


def match_latents(
    saes: Mapping[int, DecodingSAE],
    replicates: Mapping[int, DecodingSAE],
    rows: EmbeddingRows,
    output_folder: storage.PathLike,
    *,
    similarity_clusters: storage.PathLike | None = None,
    split_seed: int = 0,
    max_rows: int = 65_536,
    seed: int = 0,
) -> Product:
    """Match the latents of SAEs with those of other SAEs, trained from other initial weights.

    Each SAE of ``saes`` is matched with each replicate, both ways; SAEs of one seed never are, as
    they share what they began with. Matched are live latents, those that fire on 10 or more of the
    rows used: at most ``max_rows`` rows of validation and test proteins, evenly spaced. Two
    latents are as near as the cosine of their decoder rows, or as Pearson's correlation of their
    activations over these rows; each latent's nearest is matched where that is above 0.7, mutually
    where each is the other's nearest. The replicate of the same k is the ceiling: more cannot be
    shared between other k than between two seeds of one.

    Files of the folder:

    - ``matches.parquet``: the nearest latents of each latent in every SAE of another seed.
    - ``comparison.parquet``: a row per ordered pair of SAEs: shares matched, with the ceiling and
      with chance beside them; see ``comparison_table``.
    - ``splits.parquet``: latents that several latents of the other SAE share; see
      ``split_latents``.
    - ``stability.parquet``: for each live latent of ``saes`` its nearest in the replicate of the
      same k; see ``stability_table``.
    - ``matches.png``: the shares matched.

    Memory: 12 bytes x ``max_rows`` x the sum of the SAEs' k, 100 bytes x ``max_rows`` x the largest
    k, 8 bytes x L x L, and what ``held_out_rows`` says.

    Args:
        saes: SAEs by k.
        replicates: SAEs by k, each of another seed than all of ``saes``.
        rows: the embedding rows.
        output_folder: replaced as a whole.
        similarity_clusters: table of the proteins' similarity clusters, ``"bundled"`` or None.
        split_seed: of the split.
        max_rows: most rows used.
        seed: of the random directions and the permuted rows that chance is judged by.

    Raises:
        InputError: there is nothing to match, an SAE and a replicate are of one seed or the same,
            one is of another k than it is given for, or was trained on rows of another kind or
            with another split, or no protein is held out.
    """
    named = _named(saes, replicates)
    _require_other_seeds(saes, replicates)
    for name, sae in named.items():
        where = getattr(rows, "directory", "embeddings")
        require_same_embeddings(sae.config, rows.provenance, rows.width, where)
        require_held_out(name, sae.config.training, similarity_clusters, split_seed)
    if max_rows < 1:
        raise InputError(f"max_rows is {max_rows}; at least 1 row has to be used")
    determinants = {
        "saes": {name: identity_of_encoding(sae, rows) for name, sae in named.items()},
        "similarity_clusters": identity_of_clusters(similarity_clusters),
        "split_seed": split_seed,
        "max_rows": max_rows,
        "seed": seed,
        "algorithm": _ALGORITHM,
    }

    def build(work: Path) -> dict[str, Any]:
        numbers, held_out = held_out_rows(
            rows, max_rows, similarity_clusters=similarity_clusters, split_seed=split_seed
        )
        members = [(MAIN, k, saes[k]) for k in sorted(saes)]
        members += [(REPLICATE, k, replicates[k]) for k in sorted(replicates)]
        columns = encode_columns([sae for _, _, sae in members], rows, numbers)
        live = [
            _live(name, k, sae, of) for (name, k, sae), of in zip(members, columns, strict=True)
        ]
        return {
            "rows": len(numbers),
            "held_out_rows": held_out,
            **_write(work, _match_all(live, seed)),
        }

    return produce_folder(
        output_folder, kind="latent_matches", determinants=determinants, build=build
    )


def _named(
    saes: Mapping[int, DecodingSAE], replicates: Mapping[int, DecodingSAE]
) -> dict[str, DecodingSAE]:
    """Name the SAEs as errors call them, after checking that they are what they are given for."""
    if not saes or not replicates:
        lacking = "SAE" if not saes else "replicate of another seed"
        raise InputError(f"there is no {lacking} to match latents with; train one first")
    named = {f"the SAE of k = {k}": saes[k] for k in sorted(saes)}
    named |= {f"the replicate of k = {k}": replicates[k] for k in sorted(replicates)}
    for (name, sae), k in zip(named.items(), [*sorted(saes), *sorted(replicates)], strict=True):
        if sae.config.k != k:
            raise InputError(f"{name} has k = {sae.config.k}; name each by its own k")
    return named


def _require_other_seeds(
    saes: Mapping[int, DecodingSAE], replicates: Mapping[int, DecodingSAE]
) -> None:
    for k, sae in sorted(saes.items()):
        for other_k, replicate in sorted(replicates.items()):
            seeds = sae.config.seed, replicate.config.seed
            known = None not in seeds
            if (known and seeds[0] == seeds[1]) or sae.fingerprint == replicate.fingerprint:
                raise InputError(
                    f"the SAE of k = {k} and the replicate of k = {other_k} were both trained from "
                    f"seed {seeds[0]}, so that they match whatever they learned; train the "
                    "replicate from another seed"
                )


def _live(name: str, k: int, sae: DecodingSAE, columns: LatentColumns) -> LiveLatents:
    firing_rows = columns.firing_rows
    numbers = live_latents(sae, firing_rows)
    silent = int((firing_rows == 0).sum())
    return LiveLatents(
        name,
        k,
        silent,
        len(firing_rows) - silent - len(numbers),
        numbers,
        directions_of(sae, numbers),
        columns.take(numbers),
    )


def _match_all(live: Sequence[LiveLatents], seed: int) -> list[PairMatch]:
    """Match each SAE with each replicate, both ways."""
    main = [one for one in live if one.sae == MAIN]
    replicates = [one for one in live if one.sae == REPLICATE]
    pairs: list[PairMatch] = []
    total = len(main) * len(replicates)
    with progress(total, unit="pairs", description="matching latents") as shown:
        for one, other in itertools.product(main, replicates):
            pairs.extend(match_pair(one, other, seed))
            shown.update(1)
    return sorted(pairs, key=lambda pair: (pair.one.sae, pair.one.k, pair.other.k))


def _write(work: Path, pairs: list[PairMatch]) -> dict[str, Any]:
    splits = pl.concat([split_latents(pair) for pair in pairs])
    comparison, stability = comparison_table(pairs, splits), stability_table(pairs)
    match_table(pairs).write_parquet(work / MATCHES)
    splits.write_parquet(work / SPLITS)
    comparison.write_parquet(work / MATCH_COMPARISON)
    stability.write_parquet(work / STABILITY)
    (work / MATCH_FIGURE).write_bytes(match_figure(comparison))
    return summary_of(comparison, stability)
