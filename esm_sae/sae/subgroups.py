"""FVU by taxon and by protein length."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from esm_sae.formats.shards import EmbeddingShards

TAXON, LENGTH = "taxon", "length"
OTHER, UNKNOWN = "other", "unknown"

SCHEMA = {
    "kind": pl.String,
    "group": pl.String,
    "rows": pl.Int64,
    "proteins": pl.Int64,
    "fvu": pl.Float64,
    "relative_variance": pl.Float64,
}

_LEAST_ROWS, _LEAST_PROTEINS = 50, 5
_LONGEST = (50, 100, 150, 200, 256, 512, 1024)


class SubgroupMeter:
    """Takes rows in ascending order and sums their errors by taxon and by protein length.

    A taxon is a TaxID, or a name where the header gives no TaxID. Memory: the row table of one
    shard, and four numbers per taxon.
    """

    def __init__(self, shards: EmbeddingShards) -> None:
        self._known = shards.has_index
        self._labels = _Labels(shards)
        self._taxa, self._lengths = _Sums(), _Sums()

    def add(self, numbers: np.ndarray, errors: np.ndarray, distances: np.ndarray) -> None:
        """Count rows in.

        Args:
            numbers: of the rows, ascending, (n,); all rows of a protein are given sooner or later.
            errors: ``|x - x_hat|^2`` of each.
            distances: ``|x - mu|^2`` of each.
        """
        if not self._known:
            return
        for place, table in self._labels.of(numbers):
            starts = table["start"].to_numpy()
            for name, sums in ((TAXON, self._taxa), (LENGTH, self._lengths)):
                sums.add(table[name].to_numpy(), starts, errors[place], distances[place])

    def table(self, variance: float) -> pl.DataFrame:
        """Return one row per group: kind, group, rows, proteins, fvu, relative_variance.

        A group's FVU is its ``sum |x - x_hat|^2`` over rows x ``variance``: the denominator per
        row is that of all training rows, as for the FVU of all rows, which is thus the groups'
        mean weighted by rows. ``relative_variance`` is the group's own mean of ``|x - mu|^2``
        over the same: where it is above 1 its rows lie further out than the training rows do.

        Groups of fewer than 50 rows or 5 proteins are counted as ``other``, rows of no known
        taxon or length as ``unknown``; both come last. Taxa come by their number of rows, lengths
        ascending. Bare matrices know neither: no rows.

        Args:
            variance: mean over the training rows of ``|x - mu|^2``.
        """
        if not self._known:
            return pl.DataFrame(schema=SCHEMA)
        taxa = _of_kind(TAXON, self._labels.taxon_names(), self._taxa, by_rows=True)
        lengths = _of_kind(LENGTH, _length_names(), self._lengths, by_rows=False)
        return (
            pl.concat([taxa, lengths])
            .with_columns(
                (pl.col("errors") / (pl.col("rows") * variance)).alias("fvu"),
                (pl.col("distances") / (pl.col("rows") * variance)).alias("relative_variance"),
            )
            .select(SCHEMA.keys())
        )


class _Sums:
    """Rows, proteins, errors and distances of each group, grown as groups come."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, 4))

    def add(
        self, groups: np.ndarray, starts: np.ndarray, errors: np.ndarray, distances: np.ndarray
    ) -> None:
        missing = int(groups.max()) + 1 - len(self._sums)
        if missing > 0:
            self._sums = np.pad(self._sums, ((0, missing), (0, 0)))
        for column, weights in enumerate((None, starts, errors, distances)):
            self._sums[:, column] += np.bincount(groups, weights, minlength=len(self._sums))

    def table(self, names: list[str]) -> pl.DataFrame:
        """Return the sums of the named groups, of which the last may have had no row."""
        sums = np.pad(self._sums, ((0, len(names) - len(self._sums)), (0, 0)))
        return pl.DataFrame(
            {
                "number": np.arange(len(names)),
                "group": names,
                "rows": sums[:, 0].astype(np.int64),
                "proteins": sums[:, 1].astype(np.int64),
                "errors": sums[:, 2],
                "distances": sums[:, 3],
            }
        ).filter(pl.col("rows") > 0)


class _Labels:
    """The groups of rows by number, read shard by shard. Group 0 has the rows of none."""

    def __init__(self, shards: EmbeddingShards) -> None:
        self._tables = [path.with_suffix(".parquet") for path in shards.paths]
        self._offsets = shards.offsets
        self._held: tuple[int, pl.DataFrame] | None = None
        self._taxa: dict[int | str | None, int] = {None: 0}
        self._names = [UNKNOWN]

    def of(self, numbers: np.ndarray) -> Iterator[tuple[slice, pl.DataFrame]]:
        """Yield for each shard the place of its rows among ``numbers`` and their labels.

        Columns: taxon and length, numbers of groups, and start, 1 at the first row of a protein.
        """
        bounds = np.searchsorted(numbers, self._offsets)
        for shard in np.flatnonzero(np.diff(bounds)):
            place = slice(int(bounds[shard]), int(bounds[shard + 1]))
            yield place, self._table(int(shard))[numbers[place] - self._offsets[shard]]

    def taxon_names(self) -> list[str]:
        """Return the name of each taxon's group; of one name, those with a TaxID bear it, too."""
        shared = {name for name, count in Counter(self._names).items() if count > 1}
        return [
            f"{name} ({key})" if name in shared and isinstance(key, int) else name
            for key, name in zip(self._taxa, self._names, strict=True)
        ]

    def _table(self, shard: int) -> pl.DataFrame:
        if self._held is None or self._held[0] != shard:
            self._held = shard, self._read(self._tables[shard])
        return self._held[1]

    def _read(self, path: Path) -> pl.DataFrame:
        table = pl.read_parquet(path, columns=["sequence_id", "taxon", "taxid", "length"])
        taxa = table.select("taxid", "taxon").unique(maintain_order=True)
        groups = [self._taxon(*pair) for pair in taxa.iter_rows()]
        taxa = taxa.with_columns(pl.Series("group", groups, dtype=pl.Int64))
        joined = table.join(
            taxa, on=["taxid", "taxon"], how="left", nulls_equal=True, maintain_order="left"
        )
        lengths = 1 + np.searchsorted(_LONGEST, table["length"].fill_null(0).to_numpy())
        return pl.DataFrame(
            {
                TAXON: joined["group"],
                LENGTH: np.where(table["length"].is_null(), 0, lengths),
                "start": table["sequence_id"].rle_id().diff().fill_null(1).cast(pl.Float64),
            }
        )

    def _taxon(self, taxid: int | None, name: str | None) -> int:
        """Return the group of a taxon: by its TaxID, or its name where there is none."""
        key = name if taxid is None else taxid
        if key not in self._taxa:
            self._taxa[key] = len(self._names)
            self._names.append(f"TaxID {taxid}" if name is None else name)
        return self._taxa[key]


def _of_kind(kind: str, names: list[str], sums: _Sums, *, by_rows: bool) -> pl.DataFrame:
    """Return the sums of one kind of groups, small ones as one, in the order to show."""
    table = sums.table(names).with_columns(pl.lit(kind).alias("kind"))
    unknown = table.filter(pl.col("number") == 0)
    known = table.filter(pl.col("number") > 0)
    large = (pl.col("rows") >= _LEAST_ROWS) & (pl.col("proteins") >= _LEAST_PROTEINS)
    shown = known.filter(large)
    if by_rows:
        shown = shown.sort("rows", "group", descending=[True, False])
    others = (
        known.filter(~large)
        .group_by("kind")
        .agg(pl.lit(OTHER).alias("group"), pl.col("rows", "proteins", "errors", "distances").sum())
    )
    return pl.concat([shown, others, unknown], how="diagonal_relaxed")


def _length_names() -> list[str]:
    shortest = [1, *(longest + 1 for longest in _LONGEST[:-1])]
    ranges = [f"{low}-{high}" for low, high in zip(shortest, _LONGEST, strict=True)]
    return [UNKNOWN, *ranges, f"over {_LONGEST[-1]}"]
