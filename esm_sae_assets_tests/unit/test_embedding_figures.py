import numpy as np
import polars as pl
import pytest

from esm_sae.embedding import figures
from esm_sae.embedding.figures import lengths_figure, map_figure
from esm_sae.formats.manifest import Manifest, Product
from esm_sae.formats.shards import EMBEDDINGS, MEANS, ROW_SCHEMA, shard_name

MAN, MOUSE = ("Homo sapiens", 9606), ("Mus musculus", 10090)


@pytest.fixture
def shard_of(tmp_path):
    """Return a function that writes a shard of the given proteins' rows."""

    def write(rows, *, taxa=None, lengths=None, residues=False, max_length=None, dtype="f4"):
        count = len(rows)
        taxa = taxa or [MAN] * count
        table = pl.DataFrame(
            {
                "sequence_id": [f"P{number}" for number in range(count)],
                "header": ["of no matter"] * count,
                "taxon": [name for name, _ in taxa],
                "taxid": [number for _, number in taxa],
                "length": lengths if lengths is not None else np.arange(count) + 30,
                "position": [None] * count,
            },
            schema=ROW_SCHEMA,
        )
        matrix = np.asarray(rows, dtype=dtype)
        path = tmp_path / f"{shard_name(0, 1, MEANS if residues else EMBEDDINGS)}.npy"
        np.save(path, matrix)
        table.write_parquet(path.with_suffix(".parquet"))
        main = tmp_path / f"{shard_name(0, 1)}.npy"
        if residues:
            np.save(main, np.repeat(matrix, 3, axis=0) + 1)
            table[np.repeat(np.arange(count), 3)].write_parquet(main.with_suffix(".parquet"))
        options = {"options": {"max_length": max_length}}
        files = {name.name: {} for name in (main, path)}
        manifest = Manifest("embedding_shard", "0" * 64, options, files, {})
        return Product(main, manifest, main.with_suffix(".json"), unchanged=False)

    return write


@pytest.fixture
def drawn(monkeypatch):
    """Let the functions return matplotlib's figure, to look at what is in it."""
    monkeypatch.setattr(figures, "png_bytes", lambda figure: figure)


@pytest.mark.parametrize("draw", [lengths_figure, map_figure])
def test_the_same_shard_gives_the_same_picture(shard_of, draw):
    rows = np.random.default_rng(0).standard_normal((50, 6))
    picture = draw(shard_of(rows))
    assert picture.startswith(b"\x89PNG")
    assert picture == draw(shard_of(rows))
    other = draw(shard_of(rows[::-1] * np.arange(6), lengths=np.arange(50) ** 2 + 1))
    assert picture != other


@pytest.mark.parametrize("draw", [lengths_figure, map_figure])
def test_of_residue_rows_the_means_are_drawn(shard_of, draw):
    rows = np.random.default_rng(0).standard_normal((40, 5))
    assert draw(shard_of(rows, residues=True)) == draw(shard_of(rows))


@pytest.mark.parametrize(
    ("lengths", "bars"),
    [([7], 1), ([5, 5, 6, 9], 5), ([30, 35_213, 346], 40), (list(range(1, 41)), 40)],
)
def test_every_protein_is_in_one_bar(shard_of, drawn, lengths, bars):
    (axes,) = lengths_figure(shard_of(np.eye(len(lengths)), lengths=lengths)).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert (len(heights), sum(heights)) == (bars, len(lengths))
    first, last = axes.patches[0], axes.patches[-1]
    assert first.get_x() == min(lengths)
    assert last.get_x() <= max(lengths) < last.get_x() + last.get_width()


def test_the_median_and_a_length_that_cuts_are_marked(shard_of, drawn):
    def marks(max_length):
        shard = shard_of(np.eye(3), lengths=[10, 40, 90], max_length=max_length)
        legend = lengths_figure(shard).axes[0].get_legend()
        return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]

    assert marks(None) == ("3 proteins", ["median 40"])
    assert marks(90) == marks(None)
    assert marks(50) == ("3 proteins", ["median 40", "max_length 50"])


def test_the_map_is_that_of_a_singular_value_decomposition(shard_of, drawn):
    generator = np.random.default_rng(1)
    rows = (generator.standard_normal((60, 8)) * np.arange(1, 9) + 1_000).astype(np.float32)
    (axes,) = map_figure(shard_of(rows)).axes
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2]
    found = axes.collections[0].get_offsets()
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    shares = values**2 / (values**2).sum()
    assert axes.get_xlabel() == f"PC 1 ({shares[0]:.0%} of the variance)"
    assert axes.get_ylabel() == f"PC 2 ({shares[1]:.0%} of the variance)"


def test_of_many_proteins_some_thousands_are_drawn(shard_of, drawn):
    rows = np.zeros((7_001, 2))
    rows[:, 0] = np.arange(7_001)
    (axes,) = map_figure(shard_of(rows)).axes
    points = axes.collections[0].get_offsets()[:, 0]
    assert len(np.unique(points)) == 3_000
    assert (points.min(), points.max()) == pytest.approx((-3_500, 3_500), abs=2)


def test_the_commonest_taxa_are_named_with_their_counts(shard_of, drawn):
    genus, insect = ("Morganella", 581), ("Morganella", 90690)
    taxa = [MOUSE] * 3 + [genus, insect] * 2 + [("_odd $ name", None)] * 2 + [(None, 7)] * 2
    taxa += [(f"Alone {number}", number) for number in range(4)] + [MAN] * 5
    rows = np.random.default_rng(2).standard_normal((len(taxa), 4))
    (axes,) = map_figure(shard_of(rows, taxa=taxa)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "6  other taxa",
        "5  Homo sapiens",
        "3  Mus musculus",
        "2  Morganella (581)",
        "2  Morganella (90690)",
        r"2  _odd \$ name",
    ]
    sizes = [len(points.get_offsets()) for points in axes.collections]
    assert sizes == [6, 5, 3, 2, 2, 2]


def test_a_map_has_no_more_taxa_than_colours(shard_of, drawn):
    taxa = [(f"Taxon {number}", number) for number in range(30)] * 2
    (axes,) = map_figure(shard_of(np.eye(60), taxa=taxa)).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["42  other taxa", "2  Taxon 0"]
    assert len(labels) == 10
    colours = {tuple(points.get_facecolor()[0]) for points in axes.collections}
    assert len(colours) == 10


@pytest.mark.parametrize(
    "rows",
    [np.ones((1, 4)), np.ones((5, 4)), np.arange(6.0)[:, None], np.full((3, 4), 60_000.0)],
    ids=["one protein", "equal rows", "one dimension", "large numbers"],
)
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_odd_shards_have_pictures_too(shard_of, rows, dtype):
    shard = shard_of(rows, taxa=[(None, None)] * len(rows), dtype=dtype)
    assert map_figure(shard).startswith(b"\x89PNG")
    assert lengths_figure(shard).startswith(b"\x89PNG")
