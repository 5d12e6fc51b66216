from pathlib import Path

import numpy as np
import polars as pl
import pytest

from esm_sae.embedding import validation
from esm_sae.embedding.matrices import MatrixFile
from esm_sae.embedding.residues import ResidueRows
from esm_sae.embedding.tables import row_table, write_table, write_table_once
from esm_sae.embedding.validation import names_in, require_rows_of, require_sound
from esm_sae.errors import InputError
from esm_sae.formats.shards import ROW_SCHEMA
from file_limits import largest_file

FINAL = Path("/final/embeddings.npy")
PROTEINS = pl.DataFrame(
    {
        "sequence_id": ["P1", "P2", "P3"],
        "header": ["P1 one", "P2 two", "P3 three"],
        "taxon": ["T", None, "U"],
        "taxid": [1, None, 2],
        "length": [30, 40, 50],
        "offset": [0, 100, 200],
    },
    schema_overrides={"length": pl.Int32},
)
RESIDUES = ResidueRows(np.array([0, 29, 7, 3, 4, 5], dtype=np.int32), np.array([2, 1, 3]))


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks rows of residues, two at a time."""
    monkeypatch.setattr(validation, "_CHUNK_BYTES", 2 * 4 * 8)

    def run(matrix, **expected):
        np.save(tmp_path / "work.npy", matrix)
        shape = {"rows": 6, "width": 4, "dtype": "float32"} | expected
        row_table(PROTEINS, RESIDUES).write_parquet(tmp_path / "work.parquet")
        file = MatrixFile(tmp_path / "work.npy", FINAL, **shape)
        return require_sound(file, names_in(tmp_path / "work.parquet"))

    return run


@pytest.fixture
def rows():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def test_sound_rows_give_their_norms_to_four_digits(check, rows):
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    expected = (norms.min(), np.median(norms), norms.max())
    assert check(rows) == tuple(float(f"{value:.4g}") for value in expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_with_their_residues(check, rows, value):
    rows[1, 2] = rows[3, 0] = value
    message = f"{FINAL}: rows are not finite: P1 at residue 30, P3 at residue 4; embed in float32"
    with pytest.raises(InputError, match=message):
        check(rows)


def test_zero_rows_are_named(check, rows):
    rows[:] = 0
    message = "rows are zero: P1 at residue 1, P1 at residue 30, P2 at residue 8 and 3 more;"
    with pytest.raises(InputError, match=message):
        check(rows)


@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_norms_far_off_the_median_are_named(check, rows, factor):
    rows[2] *= factor
    with pytest.raises(InputError, match=r"1,000 times off the median of .*: P2 at residue 8;"):
        check(rows)


@pytest.mark.parametrize("expected", [{"rows": 7}, {"width": 5}, {"dtype": "float16"}])
def test_another_shape_or_type_is_an_error(check, rows, expected):
    with pytest.raises(InputError, match=r"holds float32 of shape \(6, 4\), expected float"):
        check(rows, **expected)


def test_proteins_are_named_without_a_residue(tmp_path):
    write_table(row_table(PROTEINS), tmp_path / "t.parquet", final=FINAL)
    assert names_in(tmp_path / "t.parquet")(np.array([0, 2])) == ["P1", "P3"]


def test_a_table_of_other_rows_is_an_error(tmp_path):
    table = tmp_path / "t.parquet"
    row_table(PROTEINS).write_parquet(table)
    assert require_rows_of(table, 3, file=FINAL) == 3
    with pytest.raises(InputError, match=f"{FINAL}: names 3 rows, its matrix has 4"):
        require_rows_of(table, 4, file=FINAL)


def test_row_tables_have_the_documented_columns():
    for table in (row_table(PROTEINS), row_table(PROTEINS, RESIDUES)):
        assert dict(table.schema) == ROW_SCHEMA
    table = row_table(PROTEINS, RESIDUES)
    assert table["sequence_id"].to_list() == ["P1", "P1", "P2", "P3", "P3", "P3"]
    assert table["position"].to_list() == [1, 30, 8, 4, 5, 6]
    assert table["length"].to_list() == [30, 30, 40, 50, 50, 50]
    assert row_table(PROTEINS)["position"].is_null().all()


def test_a_table_that_has_no_room_is_named_and_not_there(tmp_path):
    final = tmp_path / "embeddings.parquet"
    with largest_file(100), pytest.raises(InputError, match=f"{final}: cannot be written"):
        write_table_once(PROTEINS, tmp_path / "t.parquet", final=final)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_there_needs_no_room(tmp_path):
    path = tmp_path / "t.parquet"
    write_table_once(PROTEINS, path, final=FINAL)
    with largest_file(100):
        write_table_once(PROTEINS, path, final=FINAL)
    assert pl.read_parquet(path).equals(PROTEINS)
