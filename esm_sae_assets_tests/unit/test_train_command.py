"""The command ``python -m esm_sae.train``, and what importing the part costs."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from esm_sae.formats.npy_dict import load_npy_dict
from esm_sae.train import main


@pytest.fixture
def bare(tmp_path):
    """A folder of plain matrices, as the original's users have."""
    folder = tmp_path / "np"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("part_9", "part_10"):
        np.save(folder / f"{name}.npy", generator.standard_normal((40, 8)).astype(np.float32))
    return folder


def required(bare, **more):
    options = {"np_dir": bare, "project": "test", "latent_dim": 16} | more
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@pytest.mark.filterwarnings("default:.*are unknown:UserWarning")
def test_the_three_options_of_the_original_are_enough(bare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*required(bare, latent_dim=40), "--quiet"]) == 0
    folder = tmp_path / "data" / "L40_k32"
    config = json.loads((folder / "config.json").read_text())
    assert (config["k"], config["project"], config["encoder"]) == (32, "test", "unknown")
    assert config["epochs"] == 100
    printed, warned = capsys.readouterr()
    assert warned.count("warning: ") == 1
    assert "encoder, layer and pooling are unknown" in warned
    assert str(folder.relative_to(tmp_path) / config["final_checkpoint"]) in printed
    assert "FVU" in printed
    assert "dead latents" in printed


@pytest.mark.filterwarnings("ignore:.*are unknown:UserWarning")
def test_every_option_reaches_the_training(bare, tmp_path, capsys):
    output = tmp_path / "out" / "L16_k3"
    line = required(
        bare,
        topk=3,
        batch_size=30,
        num_epochs=2,
        learning_rate=0.01,
        aux_k=5,
        aux_alpha=0.5,
        split_seed=2,
        checkpoint_every=1,
        seed=4,
        output=output,
    )
    line += ["--tied", "--normalize", "--no_latent_bias", "--precision", "bfloat16", "--quiet"]
    line += ["--normalize_ddof", "1"]
    assert main(line) == 0
    config = json.loads((output / "config.json").read_text())
    assert (config["k"], config["tied"], config["normalize"], config["seed"]) == (3, True, True, 4)
    assert config["normalize_ddof"] == 1
    training = config["training"]
    assert (training["batch_size"], training["learning_rate"]) == (30, 0.01)
    assert (training["aux_k"], training["aux_alpha"], config["epochs"]) == (5, 0.5, 2)
    assert training["split"]["seed"] == 2
    assert (config["latent_bias"], training["precision"]) == (False, "bfloat16")
    assert (output / "checkpoint_epoch_1.npy").is_file()
    capsys.readouterr()
    assert main(line) == 0
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*are unknown:UserWarning")
def test_several_k_are_trained_at_once_into_folders_of_their_own(bare, tmp_path, capsys):
    line = [*required(bare, num_epochs=1, output=tmp_path / "out"), "--topk", "5", "3", "--quiet"]
    assert main(line) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"L16_k3", "L16_k5"}
    printed = capsys.readouterr().out
    assert printed.index("L16_k3") < printed.index("L16_k5")
    assert main([*line, "--topk", "3", "5", "8"]) == 0
    assert capsys.readouterr().out.count("unchanged") == 2


@pytest.mark.filterwarnings("ignore:.*are unknown:UserWarning")
def test_the_project_is_in_every_file_and_on_wish_in_the_folder(bare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = required(bare, project="my runs", num_epochs=1, topk=3)
    assert main([*line, "--project_folder", "--quiet"]) == 0
    folder = tmp_path / "data" / "my runs" / "L16_k3"
    assert json.loads((folder / "config.json").read_text())["project"] == "my runs"
    assert load_npy_dict(folder / "checkpoint_epoch_1.npy")["config"]["project"] == "my runs"
    assert pl.read_parquet_metadata(folder / "metrics.parquet")["project"] == "my runs"
    with safe_open(folder / "train_state.safetensors", "numpy") as state:
        assert state.metadata() == {"project": "my runs"}
    assert main([*line, "--quiet"]) == 0
    assert (tmp_path / "data" / "L16_k3" / "config.json").is_file()
    assert main([*line, "--project_folder", "--output", "out", "--quiet"]) == 0
    assert (tmp_path / "out" / "my runs" / "L16_k3" / "config.json").is_file()


@pytest.mark.filterwarnings("ignore:.*are unknown:UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": 17}, "k is 17 with 16 latents"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"np_dir": "/nowhere"}, "/nowhere: no such directory"),
        ({"similarity_clusters": "/nowhere.parquet"}, "/nowhere.parquet: no such file"),
        ({"normalize_ddof": 1}, "normalize_ddof is of rows that are z-scored; set normalize"),
        ({"track_dir": "runs"}, "--track_dir runs: nothing is tracked; name a tracker with --trac"),
        ({"track_dir": "/dev/null", "track": "tensorboard"}, "--track_dir /dev/null: is no folder"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_line_and_status_2(bare, tmp_path, capsys, change, message):
    assert main(required(bare, topk=change.pop("topk", 3), output=tmp_path / "o", **change)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:.*are unknown:UserWarning")
@pytest.mark.parametrize("project", ["../x", "..", "a/b", "/x"])
def test_a_project_that_names_no_folder_is_refused_as_one(bare, capsys, project):
    assert main([*required(bare, project=project, topk=3), "--project_folder"]) == 2
    assert f"--project '{project}' cannot be the name of a folder" in capsys.readouterr().err


def test_shards_of_two_widths_are_refused(bare, tmp_path, capsys):
    np.save(bare / "wide.npy", np.zeros((4, 9), np.float32))
    assert main(required(bare, topk=3, output=tmp_path / "o")) == 2
    assert "rows are 9 wide" in capsys.readouterr().err


def test_the_help_shows_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m esm_sae.train --np_dir" in capsys.readouterr().out


LIGHT = """
import sys
import esm_sae.sae, esm_sae.sae.options, esm_sae.sae.rows, esm_sae.train, esm_sae.sae.plots
heavy = {"jax", "torch", "optax", "matplotlib"} & set(sys.modules)
import os
assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_importing_is_light_and_leaves_gpu_memory_to_torch(python):
    result = python(LIGHT, check=False)
    assert (result.returncode, result.stderr) == (0, "")
