"""FVU by taxon and by length, against sums over plain Python dictionaries."""

import math

import numpy as np
import polars as pl
import pytest

from esm_sae.formats.shards import open_shards
from esm_sae.sae.plots import plot_subgroups
from esm_sae.sae.subgroups import SubgroupMeter


@pytest.fixture
def table_of(write_shards, tmp_path):
    """Return a function that measures proteins given as ``(header, rows)``; errors are made up."""

    def measure(proteins, *, count=1, block=7, chosen=None, variance=2.0):
        content = [(header, np.zeros((rows, 3))) for header, rows in proteins]
        shards = open_shards(
            write_shards(tmp_path / "shards", content, count=count, pooling="residue")
        )
        numbers = np.arange(shards.rows) if chosen is None else np.asarray(chosen)
        errors, distances = np.random.default_rng(0).random((2, shards.rows))
        meter = SubgroupMeter(shards)
        for start in range(0, len(numbers), block):
            part = numbers[start : start + block]
            meter.add(part, errors[part], distances[part])
        return meter.table(variance), errors, distances

    return measure


def header(number: int, taxon: str = "", taxid: int | None = None) -> str:
    words = [f"P{number} protein"]
    words += [f"OS={taxon}"] if taxon else []
    words += [f"OX={taxid}"] if taxid is not None else []
    return " ".join(words)


def test_groups_against_a_loop_over_rows(table_of):
    generator = np.random.default_rng(1)
    lengths = generator.choice([3, 40, 51, 120, 257], size=90)
    taxa = generator.choice(["Many", "Some", "Few", ""], p=[0.5, 0.3, 0.1, 0.1], size=90)
    proteins = [(header(n, taxa[n]), int(lengths[n])) for n in range(90)]
    table, errors, distances = table_of(proteins, count=4, block=100)
    expected: dict[tuple[str, str], list[float]] = {}
    row = 0
    for taxon, length in zip(taxa, lengths, strict=True):
        bins = {3: "1-50", 40: "1-50", 51: "51-100", 120: "101-150", 257: "257-512"}
        for key in (("taxon", taxon or "unknown"), ("length", bins[int(length)])):
            sums = expected.setdefault(key, [0, 0, 0.0, 0.0])
            sums[0] += int(length)
            sums[1] += 1
            sums[2] += errors[row : row + length].sum()
            sums[3] += distances[row : row + length].sum()
        row += length
    assert set(table.select("kind", "group").iter_rows()) == set(expected)
    for kind, group, rows, proteins_in, fvu, relative_variance in table.iter_rows():
        sums = expected[kind, group]
        assert [rows, proteins_in] == sums[:2]
        np.testing.assert_allclose(fvu, sums[2] / (rows * 2.0))
        np.testing.assert_allclose(relative_variance, sums[3] / (rows * 2.0))


def test_the_groups_mean_weighted_by_rows_is_the_fvu_of_all_rows(table_of):
    proteins = [(header(n, f"Taxon {n % 7}"), 1 + n % 60) for n in range(120)]
    table, errors, _ = table_of(proteins)
    for _, groups in table.group_by("kind"):
        mean = np.average(groups["fvu"], weights=groups["rows"])
        np.testing.assert_allclose(mean, errors.mean() / 2.0)
        assert groups["rows"].sum() == len(errors)


def test_small_groups_are_others_and_come_last_before_the_unknown(table_of):
    proteins = [
        *((header(n, "Large"), 11) for n in range(5)),
        *((header(n, "Larger"), 12) for n in range(5, 10)),
        *((header(n, "Few proteins"), 30) for n in range(10, 14)),
        *((header(n, "Few rows"), 9) for n in range(14, 19)),
        (header(19), 60),
    ]
    table, errors, _ = table_of(proteins)
    taxa = table.filter(pl.col("kind") == "taxon")
    assert taxa["group"].to_list() == ["Larger", "Large", "other", "unknown"]
    assert taxa["rows"].to_list() == [60, 55, 165, 60]
    assert taxa["proteins"].to_list() == [5, 5, 9, 1]
    np.testing.assert_allclose(taxa["fvu"][2], errors[115:280].mean() / 2.0)


def test_a_taxid_is_one_taxon_whatever_its_name_and_equal_names_are_told_apart(table_of):
    proteins = [
        *((header(n, "Escherichia coli", 562), 20) for n in range(3)),
        *((header(n, "E. coli", 562), 20) for n in range(3, 6)),
        *((header(n, "Bacillus", 1386), 20) for n in range(6, 11)),
        *((header(n, "Bacillus", 55087), 10) for n in range(11, 16)),
    ]
    taxa = table_of(proteins, count=2)[0].filter(pl.col("kind") == "taxon")
    assert dict(taxa.select("group", "rows").iter_rows()) == {
        "Escherichia coli": 120,
        "Bacillus (1386)": 100,
        "Bacillus (55087)": 50,
    }


def test_only_the_given_rows_count(table_of):
    proteins = [(header(n, "One"), 10) for n in range(10)] + [
        (header(n, "Two"), 10) for n in range(10, 20)
    ]
    chosen = [*range(0, 50), *range(150, 200)]
    table, errors, _ = table_of(proteins, count=3, chosen=chosen)
    taxa = table.filter(pl.col("kind") == "taxon")
    assert sorted(taxa.select("group", "rows", "proteins").iter_rows()) == [
        ("One", 50, 5),
        ("Two", 50, 5),
    ]
    fvu = dict(taxa.select("group", "fvu").iter_rows())
    assert math.isclose(fvu["Two"], errors[150:].mean() / 2.0)


def test_bare_matrices_have_no_groups(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((60, 3), np.float32))
    with pytest.warns(UserWarning, match="are unknown"):
        shards = open_shards(tmp_path)
    meter = SubgroupMeter(shards)
    meter.add(np.arange(60), np.ones(60), np.ones(60))
    table = meter.table(1.0)
    assert table.is_empty()
    assert "fvu" in table.columns


def test_the_plot_shows_the_largest_taxa_and_what_is_left():
    names = [*(f"Taxon {n}" for n in range(14)), "other", "unknown"]
    sums = {"rows": 100, "proteins": 7, "fvu": 0.5, "relative_variance": 2.0}
    table = pl.concat(
        [
            pl.DataFrame({"kind": "taxon", "group": names}),
            pl.DataFrame({"kind": ["length"], "group": ["1-50"]}),
        ]
    ).with_columns(**{name: pl.lit(value) for name, value in sums.items()})
    taxa, lengths = plot_subgroups(table, 0.4).axes
    labels = [label.get_text() for label in taxa.get_yticklabels()]
    assert labels == [f"{name} (7)" for name in [*names[:12], "other", "unknown"]]
    assert taxa.get_title() == "By taxon (proteins), 12 of 14"
    assert lengths.lines[0].get_xdata().tolist() == [0.25]
