"""Several devices share the rows of a batch; forced on a CPU, in a process of its own."""

import json

import numpy as np
import pytest

from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, train_sae
from esm_sae.sae.devices import Devices

ON_DEVICES = """
import json, os, sys
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[3]}"
from esm_sae.formats.shards import open_shards
from esm_sae.sae import TrainOptions, train_sae
options = TrainOptions(**json.loads(sys.argv[4]))
product = train_sae(open_shards(sys.argv[1]), sys.argv[2], options).product
print(json.dumps(product.manifest.determinants["devices"]))
"""


# 3 devices do not share 32 rows equally: some get a row of padding.
@pytest.mark.parametrize("count", [2, 3])
def test_several_devices_reach_the_loss_of_one(make_shards, tmp_path, python, count):
    folder, _ = make_shards(proteins=100, width=8, count=3)
    options = {
        "latent_dim": 16, "k": 3, "batch_size": 32, "num_epochs": 3, "learning_rate": 1e-2
    }  # fmt: skip
    alone = train_sae(open_shards(folder), tmp_path / "one" / "L16_k3", TrainOptions(**options))
    target = tmp_path / "several" / "L16_k3"
    printed = python(ON_DEVICES, folder, target, count, json.dumps(options)).stdout
    assert json.loads(printed) == {"kind": "cpu", "count": count}
    import polars as pl

    one = pl.read_parquet(alone.product.path / "metrics.parquet")
    several = pl.read_parquet(target / "metrics.parquet")
    assert one["step"].to_list() == several["step"].to_list()
    for column in ("loss", "fvu", "train_fvu", "validation_fvu"):
        np.testing.assert_allclose(several[column], one[column], rtol=1e-4)


def test_the_formulation_is_chosen_by_the_devices():
    assert Devices("cpu", 1).formulation == "sparse"
    assert {Devices(kind, 1).formulation for kind in ("gpu", "tpu")} == {"dense"}
    assert Devices("cpu", 2).formulation == "dense"


def test_rows_may_stay_on_one_accelerator_only():
    assert Devices("gpu", 1).resident is None
    assert [Devices("cpu", 1).resident, Devices("gpu", 2).resident] == [False, False]
