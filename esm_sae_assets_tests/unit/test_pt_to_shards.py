"""``pt_to_npy`` where it is said what the rows are."""

import itertools
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from esm_sae import pt_to_npy, train
from esm_sae.embedding import (
    EmbeddingOptions,
    convert_pt_to_shards,
    embed_fasta,
    load_encoder,
    open_shards,
)
from esm_sae.embedding.pt_files import PtFile
from esm_sae.errors import InputError
from esm_sae.formats.fasta import read_fasta

runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))
CUTS = [0, 4, 11, 12, 23]


@pytest.fixture
def fasta(write_fasta, random_proteins):
    return write_fasta(random_proteins(CUTS[-1]))


@pytest.fixture
def toy():
    return load_encoder("toy", device="cpu")


@pytest.fixture
def save(tmp_path, fasta, toy):
    """Return a function that saves the proteins' rows as .pt files, some proteins in each.

    ``numbered`` says what ``start_idx`` and ``end_idx`` count, as a function of the bounds.
    """
    folder = tmp_path / "pt"
    folder.mkdir()
    sequences = [record.sequence for record in read_fasta(fasta)]

    def run(pooling="mean", *, dtype=torch.float32, cuts=CUTS, numbered=None, name="part_{}.pt"):
        for number, (first, end) in enumerate(itertools.pairwise(cuts)):
            rows = torch.from_numpy(toy.embed(sequences[first:end], pooling=pooling)).to(dtype)
            content = rows
            if numbered is not None:
                start_idx, end_idx = numbered(first, end)
                content = {"embeddings": rows, "start_idx": start_idx, "end_idx": end_idx}
            torch.save(content, folder / name.format(number))
        return folder

    return run


@pytest.fixture
def convert(tmp_path, fasta):
    """Return a function that converts a folder of .pt files to shards."""

    def run(folder, **options):
        given = {"fasta": fasta, "encoder": "toy", "layer": 1, "pooling": "mean"} | options
        return convert_pt_to_shards(folder, tmp_path / "shards", **given)

    return run


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "bos", "residue"])
def test_shards_are_as_if_embedded_here(save, convert, fasta, toy, tmp_path, pooling, monkeypatch):
    monkeypatch.setattr(PtFile, "rows_per_chunk", 50)
    report = convert(save(pooling), pooling=pooling)
    shards = open_shards(tmp_path / "shards")
    options = EmbeddingOptions(pooling=pooling)
    embed_fasta(fasta, tmp_path / "e", encoder=toy, options=options, sequences_per_shard=6)
    embedded = open_shards(tmp_path / "e")
    np.testing.assert_allclose(
        np.concatenate(shards.arrays), np.concatenate(embedded.arrays), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.concatenate(shards.means().arrays), np.concatenate(embedded.means().arrays), rtol=1e-5
    )
    assert shards.index.collect().equals(embedded.index.collect())
    assert shards.means().index.collect().equals(embedded.means().index.collect())
    assert [path.stem for path in shards.paths] == [
        f"embeddings_{number:04d}-of-0004" for number in range(4)
    ]
    assert (report.files, report.rows) == (4, embedded.rows)
    assert shards.provenance.describe() == f"toy, layer 1, {pooling} rows"
    assert (shards.provenance.weights_sha256, shards.provenance.precision) == ("unknown",) * 2
    totals, expected = (
        json.loads((folder / "manifest.json").read_text())["summary"]
        for folder in (tmp_path / "shards", tmp_path / "e")
    )
    for name in ("rows", "width", "proteins", "residues"):
        assert totals[name] == expected[name]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([torch.float16, torch.float16], np.float16),
        ([torch.float16, torch.float32], np.float32),
        ([torch.bfloat16, torch.float16], np.float32),
    ],
)
def test_shards_are_of_one_type(save, convert, tmp_path, types, expected):
    save(dtype=types[0], cuts=CUTS[:3])
    convert(save(dtype=types[1], cuts=CUTS[2:], name="part_1{}.pt"))
    assert {array.dtype for array in open_shards(tmp_path / "shards").arrays} == {
        np.dtype(expected)
    }


def matrices_of(folder):
    return {name: data for name, data in bytes_of(folder).items() if not name.endswith(".json")}


def test_files_are_ordered_by_their_numbers_else_naturally(save, convert, tmp_path):
    names = ["part_2.pt", "part_10.pt", "part_100.pt", "part_3000.pt"]
    for name, cuts in zip(names, itertools.pairwise(CUTS), strict=True):
        folder = save(cuts=cuts, name=name)
    convert(folder)
    expected = matrices_of(tmp_path / "shards")
    for name, cuts in zip(reversed(names), itertools.pairwise(CUTS), strict=True):
        save(cuts=cuts, name=name, numbered=lambda first, end: (first, end))
    convert(folder)
    assert matrices_of(tmp_path / "shards") == expected


def test_train_runs_on_the_shards(save, convert, tmp_path):
    convert(save("residue"), pooling="residue")
    line = f"--np_dir {tmp_path / 'shards'} --project p --latent_dim 8 --topk 2 --num_epochs 1"
    assert train.main([*line.split(), "--output", str(tmp_path / "L8_k2"), "--quiet"]) == 0
    config = json.loads((tmp_path / "L8_k2" / "config.json").read_text())
    assert (config["encoder"], config["layer"], config["pooling"]) == ("toy", 1, "residue")


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_a_rerun_is_unchanged_and_a_changed_file_makes_all_shards_anew(
    save, convert, tmp_path, pooling
):
    folder = save(pooling)
    assert not convert(folder, pooling=pooling).product.unchanged
    before = bytes_of(tmp_path / "shards")
    assert convert(folder, pooling=pooling).product.unchanged
    assert bytes_of(tmp_path / "shards") == before
    torch.save(torch.load(folder / "part_2.pt") * 2, folder / "part_2.pt")
    assert not convert(folder, pooling=pooling).product.unchanged


def test_a_rerun_goes_on_behind_the_last_whole_shard(save, convert, tmp_path, monkeypatch):
    folder, read, asked = save(), PtFile.read, []

    def counted(file, bounds):
        asked.append(file.path.name)
        if asked == ["part_0.pt", "part_1.pt", "part_2.pt"]:
            raise KeyboardInterrupt
        return read(file, bounds)

    monkeypatch.setattr(PtFile, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder)
    convert(folder)
    assert asked[3:] == ["part_2.pt", "part_3.pt"]
    assert open_shards(tmp_path / "shards").rows == CUTS[-1]


def test_rows_and_sequences_must_be_as_many(save, convert, tmp_path):
    folder = save(cuts=CUTS[:-1])
    with pytest.raises(InputError, match=r"its 3 files hold 12 rows, .* has 23 sequences; name"):
        convert(folder)
    with pytest.raises(InputError, match=r"its 3 files hold 12 rows, .* has \d+ residues; name"):
        convert(folder, pooling="residue")
    assert not (tmp_path / "shards").exists()


def test_a_protein_in_two_files_is_named(save, convert, fasta):
    folder = save("residue", cuts=[0, 23])
    whole = torch.load(folder / "part_0.pt")
    first = next(read_fasta(fasta))
    torch.save(whole[: len(first.sequence) - 1], folder / "part_0.pt")
    torch.save(whole[len(first.sequence) - 1 :], folder / "part_1.pt")
    message = rf"part_0\.pt: ends among the residues of {first.header.split()[0]}, and shards"
    with pytest.raises(InputError, match=message):
        convert(folder, pooling="residue")


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_numbers_of_rows_or_of_proteins_fit(save, convert, pooling):
    convert(save(pooling, numbered=lambda first, end: (first, end)), pooling=pooling)


def test_a_start_that_drifts_is_reported_and_the_end_is_taken(save, convert, tmp_path):
    folder = save(numbered=lambda first, end: (max(0, first - 1), end))
    with pytest.warns(UserWarning, match=r"part_1\.pt: start_idx is 3, 1 rows overlap .*; the oth"):
        convert(folder)
    assert open_shards(tmp_path / "shards").rows == CUTS[-1]


@pytest.mark.parametrize(
    ("numbered", "message"),
    [
        (lambda first, end: (first + 5, end + 5), r"part_0\.pt: start_idx is 5, but no file holds"),
        (lambda first, end: (2 * first, 2 * end), r"part_0\.pt: end_idx is 8, its 4 rows end at 4"),
        (
            lambda first, end: (first + (first > 4), end + (first > 4)),
            r"part_2\.pt: start_idx is 12, 1 rows are missing behind part_1\.pt, which ends at 11",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(save, convert, tmp_path, numbered, message):
    with pytest.raises(InputError, match=message):
        convert(save(numbered=numbered))
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("pooling", ["mean", "residue"])
@pytest.mark.parametrize(("value", "what"), [(torch.nan, "not finite"), (0, "zero")])
def test_rows_that_are_not_sound_are_named_by_their_sequence(
    save, convert, fasta, tmp_path, pooling, value, what
):
    folder = save(pooling)
    rows = torch.load(folder / "part_1.pt")
    rows[0] = value
    torch.save(rows, folder / "part_1.pt")
    name = list(read_fasta(fasta))[CUTS[1]].header.split()[0]
    with pytest.raises(InputError, match=f"embeddings_0001-of-0004.*{what}.*{name}"):
        convert(folder, pooling=pooling)
    assert not list((tmp_path / "shards").glob("*_0001-of-0004*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "esmc_300m"}, "part_0.pt: rows are 4 wide, those of esmc_300m are 960"),
        ({"encoder": "esmc_300m", "layer": 31}, "layer 31: esmc_300m has layers 0 to 30"),
        ({"layer": -1}, "layer -1: how many layers toy has is not known here"),
        ({"layer": 10**22}, f"layer {10**22}: no encoder has so many; give 0 to 10,000"),
        ({"encoder": "my\tencoder"}, "encoder 'my encoder': name the one that made the rows"),
        ({"encoder": "unknown"}, "encoder 'unknown': name the one that made the rows"),
        ({"pooling": "sum"}, "pooling 'sum': expected one of mean, max, last, bos, residue"),
    ],
)
def test_an_origin_that_cannot_be_is_refused(save, convert, options, message):
    with pytest.raises(InputError, match=message):
        convert(save(), **options)


def test_files_of_several_widths_are_refused(save, convert):
    folder = save(cuts=CUTS[:4])
    torch.save(torch.ones(11, 5), folder / "part_3.pt")
    with pytest.raises(InputError, match=r"part_3\.pt: rows are 5 wide, those of part_0\.pt are 4"):
        convert(folder)


def test_the_last_layer_of_a_known_encoder_is_stored_by_its_number(tmp_path, write_fasta):
    fasta = write_fasta([("P1", "MKV"), ("P2", "MW")])
    (tmp_path / "pt").mkdir()
    torch.save(torch.ones(2, 960), tmp_path / "pt" / "a.pt")
    given = {"fasta": fasta, "encoder": "esmc_300m", "layer": -1, "pooling": "last"}
    convert_pt_to_shards(tmp_path / "pt", tmp_path / "shards", **given)
    assert open_shards(tmp_path / "shards").provenance.layer == 30


def test_shards_of_another_split_are_refused(save, convert):
    folder = save()
    convert(folder)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="a shard of another split, 1 shards are to be written"):
        convert(save(cuts=[0, 23]))


def test_the_command_makes_shards(save, fasta, tmp_path, capsys):
    line = f"--input_dir {save()} --output_dir {tmp_path / 's'} --fasta {fasta} --encoder toy"
    line = [*line.split(), "--layer", "1", "--pooling", "mean"]
    assert pt_to_npy.main(line) == 0
    first = f"{tmp_path / 's'}: 23 rows in 4 shards; toy, layer 1, mean rows"
    assert capsys.readouterr().out == f"{first}\n"
    assert pt_to_npy.main(line) == 0
    assert capsys.readouterr().out == f"{first}; unchanged\n"


def test_the_command_wants_to_know_all_or_nothing(save, fasta, tmp_path, capsys):
    line = ["--input_dir", str(save()), "--output", str(tmp_path / "s"), "--fasta", str(fasta)]
    assert pt_to_npy.main(line) == 2
    assert capsys.readouterr().err == (
        "error: --encoder, --layer, --pooling missing: shards need all of --fasta, --encoder, "
        "--layer and --pooling, plain matrices none of them\n"
    )
