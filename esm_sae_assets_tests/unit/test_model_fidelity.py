"""An SAE spliced into ESM-C, against esm's own modules with a hook, one sequence at a time."""

import functools
import itertools
import json
import math
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from esm.models.esmc import ESMC
from esm.tokenization import EsmSequenceTokenizer

from esm_sae import model_fidelity
from esm_sae.analysis import measure_model_fidelity
from esm_sae.analysis.model_fidelity import measurement
from esm_sae.analysis.model_fidelity.hidden_residues import (
    AMINO_ACIDS,
    amino_acids_of,
    hide_residues,
    proteins_of,
)
from esm_sae.analysis.model_fidelity.loss_recovered import Tally, loss_recovered
from esm_sae.analysis.model_fidelity.splicing import Outcome
from esm_sae.data import bundled_fasta
from esm_sae.embedding import load_encoder, register_encoder
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.esmc import load_esmc
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import Checkpoint, SAEConfig, write_checkpoint, write_config
from esm_sae.formats.fasta import read_fasta
from esm_sae.formats.headers import parse_header
from esm_sae.sae import SAE
from esm_sae.split import splits_of

ToyBackbone = runpy.run_path(str(Path(__file__).with_name("toy_encoder.py")))["ToyBackbone"]
CPU = torch.device("cpu")
MASK, BATCH_TOKENS = 32, 300
RUNS = ("clean", "spliced", "mean", "zero")


class FakeSAE:
    """An SAE whose reconstruction is what it is given."""

    fingerprint = "fake"

    def __init__(self, reconstruct, width, **config):
        self.config = SAEConfig(width, 8, 2, **{"pooling": "residue", **config})
        self.reconstruct = reconstruct


def random_sae(width, seed=0, **config):
    generator = np.random.default_rng(seed)
    decoder = generator.standard_normal((64, width)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    threshold = np.full(64, 0.5, np.float32) if config.get("activation") == "jumprelu" else None
    return SAE(
        Checkpoint(
            encoder=decoder.T,
            decoder=decoder,
            latent_bias=np.zeros(64, np.float32),
            pre_bias=generator.standard_normal(width).astype(np.float32) / 10,
            threshold=threshold,
            config=SAEConfig(width, 64, 8, **{"pooling": "residue", **config}),
            path=Path("random"),
        ),
        "random",
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """ESM-C of three blocks, random weights, whose head tells the states apart."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    model = ESMC(128, 2, 3, EsmSequenceTokenizer())
    model.sequence_head[-1].weight.data *= 2
    torch.save(model.state_dict(), path)
    backbone = load_esmc(128, 2, 3, weights=path, hub=None, device=CPU)
    return Encoder("tiny", backbone, device=CPU, precision="float32")


@pytest.fixture(scope="module")
def demo():
    return load_encoder("esmc_demo", device="cpu")


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    """Short real proteins, six of the training and six of the test split, and one of X."""
    path = tmp_path_factory.mktemp("fasta") / "proteins.fasta"
    short = [record for record in read_fasta(bundled_fasta()) if len(record.sequence) <= 90]
    splits = splits_of([parse_header(record.header).sequence_id for record in short])
    chosen = [
        short[at] for split in ("train", "test") for at in np.flatnonzero(splits == split)[:6]
    ]
    records = [f">{record.header}\n{record.sequence}\n" for record in chosen]
    path.write_text("".join(records) + f">{unknown_of_the_test_split()}\nXXX\n")
    return path


def unknown_of_the_test_split():
    names = (f"unknown_{number}" for number in itertools.count())
    return next(name for name in names if splits_of([name])[0] == "test")


def logits_of_esm(model, ids, layer, change):
    """Return logits (T, 64) float64 of one sequence with the states of a layer changed."""
    transformer = model.transformer
    module = {0: model.embed, len(transformer.blocks): transformer.norm}.get(layer)
    module = transformer.blocks[layer - 1] if module is None else module
    hook = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    with torch.inference_mode():
        logits = model(sequence_tokens=torch.from_numpy(ids)[None]).sequence_logits[0]
    hook.remove()
    return logits.double().numpy()


def naive(model, sae, proteins, *, layer, mean, place, seed=0):
    """Return cross-entropy, hit and KL of each run, (M, 4) each, and the proteins' numbers."""
    tokenizer, rows, owners = EsmSequenceTokenizer(), [], []
    hidden = hide_residues(*proteins, seed)
    for number, (sequence, positions) in enumerate(zip(proteins.sequences, hidden, strict=True)):
        ids = np.array(tokenizer.encode(sequence))
        shown = ids.copy()
        shown[positions + 1] = MASK
        chosen = np.arange(1, len(ids) - 1)
        if place == "unmasked":
            chosen = np.setdiff1d(chosen, positions + 1)
        passes = []
        for run in RUNS:
            content = {
                "clean": lambda states: states,
                "spliced": lambda states: torch.from_numpy(sae.reconstruct(states.numpy())),
                "mean": lambda states: torch.from_numpy(mean.astype(np.float32)).expand_as(states),
                "zero": torch.zeros_like,
            }[run]

            def change(output, content=content, chosen=chosen):
                output = output.clone()
                output[0, chosen] = content(output[0, chosen])
                return output

            logits = logits_of_esm(model, shown, layer, change)[positions + 1]
            passes.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
        for at, position in enumerate(positions):
            truth = ids[position + 1]
            logs = [each[at] for each in passes]
            clean = np.exp(logs[0])
            divergence = [(clean * (logs[0] - log)).sum() for log in logs]
            rows.append([(-log[truth], log.argmax() == truth, kl)
                         for log, kl in zip(logs, divergence, strict=True)])  # fmt: skip
            owners.append(number)
    return np.moveaxis(np.array(rows), 2, 0), np.array(owners)


def measured(sae, model, fasta, folder, **options):
    product = measure_model_fidelity(
        sae, model, fasta, folder, **{"layer": 2, "batch_tokens": BATCH_TOKENS, **options}
    )
    return json.loads((product.path / "model_fidelity.json").read_text())


def drawn(fasta, split):
    options = {"split_seed": 0, "most": None, "max_length": None, "seed": 0}
    return proteins_of(fasta, split, {}, **options)


def mean_state(model, fasta, layer):
    return model.embed(drawn(fasta, "train").sequences, pooling="residue", layer=layer).mean(0)


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_left_as_they_are_the_states_give_the_logits_of_esm(tiny, layer, padded):
    sequences = ["MKVLAWFHG" * 9, "MKV", "ACDEFGHIKL"] if padded else ["ACDEFGHIKL"]
    ids = [tiny.token_ids(sequence) for sequence in sequences]
    (found,) = tiny.logits(ids, layer=layer, replace=lambda states: [states])
    ends = np.cumsum([len(one) for one in ids])
    for one, logits in zip(ids, np.split(found.numpy(), ends[:-1]), strict=True):
        expected = logits_of_esm(tiny.backbone.model, one, layer, lambda output: output)
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_versions_do_not_change_one_another(tiny):
    ids = [tiny.token_ids("MKVLAWFHG")]
    clean, _, again = tiny.logits(
        ids, layer=1, replace=lambda states: [states, torch.zeros_like(states), states]
    )
    torch.testing.assert_close(clean, again, rtol=0, atol=0)


def test_under_bfloat16_logits_are_near_and_float32(tiny, demo):
    ids = [demo.token_ids("MKVLAWFHGDEKLNPQRST" * 3)]
    (exact,) = demo.logits(ids, layer=1, replace=lambda states: [states])
    reduced = load_encoder("esmc_demo", device="cpu", precision="bfloat16")
    (found,) = reduced.logits(ids, layer=1, replace=lambda states: [states])
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("name", "layer", "config"),
    [
        ("tiny", 0, {}),
        ("tiny", 2, {"normalize": True}),
        ("demo", 1, {"activation": "jumprelu"}),
        ("demo", 3, {}),
    ],
)
def test_figures_are_those_of_esm_with_a_hook(request, fasta, tmp_path, name, layer, config):
    model = request.getfixturevalue(name)
    sae = random_sae(model.width, **config)
    found = measured(sae, model, fasta, tmp_path / "out", layer=layer)
    mean, proteins = mean_state(model, fasta, layer), drawn(fasta, "test")
    for place, figures in (("all", found), ("unmasked", found["unmasked_only"])):
        (entropy, hit, divergence), owners = naive(
            model.backbone.model, sae, proteins, layer=layer, mean=mean, place=place
        )
        assert found["masked_residues"] == len(owners)
        assert found["proteins"] == len(np.unique(owners)) == len(proteins.ids) - 1
        for column, run in enumerate(RUNS):
            expected = entropy[:, column].mean()
            assert figures[f"cross_entropy_{run}"] == pytest.approx(expected, abs=1e-5)
            assert figures[f"perplexity_{run}"] == pytest.approx(math.exp(expected), rel=1e-5)
            assert figures[f"accuracy_{run}"] == pytest.approx(hit[:, column].mean(), abs=1e-9)
        for column, run in enumerate(RUNS[1:], 1):
            assert figures[f"kl_{run}"] == pytest.approx(divergence[:, column].mean(), abs=1e-5)
        clean, spliced, *ablated = entropy.mean(axis=0)
        for ablation, value in zip(("mean", "zero"), ablated, strict=True):
            share = figures[f"recovered_of_{ablation}"]
            if share is None:
                assert figures[f"recovered_of_{ablation}_reason"].startswith(f"the {ablation}")
            else:
                assert share == pytest.approx((value - spliced) / (value - clean), abs=1e-4)


def test_the_table_says_the_same_by_amino_acid(demo, fasta, tmp_path):
    figures = measured(random_sae(256), demo, fasta, tmp_path / "out", layer=1)
    table = pl.read_parquet(tmp_path / "out" / "by_residue.parquet")
    assert table["residue"].to_list() == list(AMINO_ACIDS)
    counts = table["masked_residues"]
    assert counts.sum() == figures["masked_residues"]
    for column in table.columns[2:]:
        assert (table[column].is_null() == (counts == 0)).all()
        mean = (table[column] * counts).sum() / counts.sum()
        assert mean == pytest.approx(figures[column], abs=1e-9)


def test_a_perfect_reconstruction_recovers_all_and_zeros_recover_nothing(demo, fasta, tmp_path):
    perfect = FakeSAE(lambda rows: rows, 256)
    found = measured(perfect, demo, fasta, tmp_path / "perfect")
    assert found["recovered_of_zero"] == 1
    assert found["recovered_of_zero_low"] == found["recovered_of_zero_high"] == 1
    assert found["kl_spliced"] == 0
    silent = FakeSAE(np.zeros_like, 256)
    found = measured(silent, demo, fasta, tmp_path / "silent")
    assert found["cross_entropy_spliced"] == found["cross_entropy_zero"]
    assert found["recovered_of_zero"] == 0


def test_after_the_last_block_unmasked_residues_decide_nothing(demo, fasta, tmp_path):
    found = measured(random_sae(256), demo, fasta, tmp_path / "out", layer=-1)["unmasked_only"]
    assert found["kl_zero"] == found["kl_spliced"] == 0
    assert found["recovered_of_zero"] is found["recovered_of_zero_low"] is None
    assert found["recovered_of_zero_reason"] == (
        "the zero ablation costs 0 nats (95% interval 0 to 0)"
    )


def test_the_same_bytes_in_another_run_and_other_residues_by_another_seed(demo, fasta, tmp_path):
    sae = random_sae(256)
    first = measured(sae, demo, fasta, tmp_path / "first")
    assert measured(sae, demo, fasta, tmp_path / "again") == first
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    product = measure_model_fidelity(
        sae, demo, fasta, tmp_path / "first", layer=2, batch_tokens=BATCH_TOKENS
    )
    assert product.unchanged
    assert measured(sae, demo, fasta, tmp_path / "first", seed=1) != first


def test_a_batch_is_what_its_proteins_are_alone(demo, fasta, tmp_path):
    sae = random_sae(256)
    alone = measured(sae, demo, fasta, tmp_path / "alone", batch_tokens=1)
    together = measured(sae, demo, fasta, tmp_path / "together", batch_tokens=10_000)
    for name in ("cross_entropy_clean", "cross_entropy_spliced", "kl_spliced"):
        assert alone[name] == pytest.approx(together[name], abs=1e-5)


def test_the_mean_state_is_summed_over_slices(demo, fasta, tmp_path, monkeypatch):
    proteins = drawn(fasta, "train")
    assert len(proteins.ids) == 6
    monkeypatch.setattr(measurement, "_AT_A_TIME", 4)
    sizes, embed = [], demo.embed

    def embedding(sequences, **options):
        sizes.append(len(sequences))
        return embed(sequences, **options)

    monkeypatch.setattr(demo, "embed", embedding)
    mean, count = measurement._mean_state(demo, proteins, 2, None)
    assert (sizes, count) == ([4, 2], 6)
    # The other mean is summed in float32.
    np.testing.assert_allclose(mean, mean_state(demo, fasta, 2), rtol=1e-5, atol=1e-5)


def outcome_of(entropies):
    """Return the outcome of residues with the cross-entropies of clean, spliced, mean, zero."""
    columns = [0, *[1, 2, 3] * 2]
    entropies = np.array(entropies)[:, columns]
    return Outcome(entropies, np.zeros(entropies.shape, bool), np.zeros(entropies.shape))


def test_intervals_are_of_a_bootstrap_over_clusters():
    generator = np.random.default_rng(0)
    entropies = np.array([2.0, 2.2, 2.5, 3.0]) + generator.standard_normal((60, 1)) / 10
    entropies += generator.standard_normal((60, 4)) / 10
    owners, clusters = np.repeat(np.arange(20), 3), np.repeat(np.arange(10), 2)
    tally = Tally(20)
    tally.add(owners, outcome_of(entropies))
    figures = loss_recovered(tally, clusters, seed=3)["all"]
    generator, shares = np.random.default_rng(3), []
    for _ in range(1000):
        rows = [np.flatnonzero(clusters[owners] == one) for one in generator.integers(10, size=10)]
        clean, spliced, _, zero = entropies[np.concatenate(rows)].mean(axis=0)
        shares.append((zero - spliced) / (zero - clean))
    clean, spliced, _, zero = entropies.mean(axis=0)
    assert figures["recovered_of_zero"] == pytest.approx((zero - spliced) / (zero - clean))
    low, high = np.quantile(shares, [0.025, 0.975])
    assert figures["recovered_of_zero_low"] == pytest.approx(low)
    assert figures["recovered_of_zero_high"] == pytest.approx(high)


def test_where_the_ablation_costs_nothing_no_share_is_told():
    noise = np.random.default_rng(0).standard_normal((60, 4))
    tally = Tally(20)
    tally.add(np.repeat(np.arange(20), 3), outcome_of(3 + noise))
    figures = loss_recovered(tally, np.arange(20), seed=0)["all"]
    assert figures["recovered_of_zero"] is None
    assert "95% interval -0" in figures["recovered_of_zero_reason"]


def test_a_single_cluster_has_no_interval():
    tally = Tally(1)
    tally.add(np.zeros(2, int), outcome_of([[1, 1, 2, 3], [1, 2, 2, 3]]))
    figures = loss_recovered(tally, np.zeros(1, int), seed=0)["all"]
    assert figures["cross_entropy_spliced"] == 1.5
    assert figures["cross_entropy_spliced_low"] is None
    assert figures["recovered_of_zero_reason"] == "the zero ablation costs 2 nats (no interval)"


def test_hidden_are_15_percent_of_the_standard_amino_acids():
    sequences = ["MKVLAWFHGD" * 20, "MK", "XBXXA", "XXX"]
    ids = [f"P{number}" for number in range(4)]
    hidden = hide_residues(ids, sequences, 0)
    assert [len(one) for one in hidden] == [30, 1, 1, 0]
    assert hidden[2].tolist() == [4]
    assert (np.diff(hidden[0]) > 0).all()
    (alone,) = hide_residues(ids[:1], sequences[:1], 0)
    assert alone.tolist() == hidden[0].tolist()
    assert hide_residues(ids[:1], sequences[:1], 1)[0].tolist() != hidden[0].tolist()
    assert amino_acids_of("ACYX").tolist() == [0, 1, 19, -1]


def test_a_smaller_draw_is_part_of_a_larger():
    def ids(most):
        options = {"split_seed": 0, "most": most, "max_length": 30, "seed": 0}
        found = proteins_of(bundled_fasta(), "test", {}, **options)
        assert max(map(len, found.sequences)) <= 30
        return found.ids

    few, more, every = ids(5), ids(12), ids(None)
    assert len(few) == 5
    assert set(few) < set(more) < set(every)
    assert [one for one in every if one in set(more)] == more


ENCODED = {"encoder": "esmc_demo", "pooling": "residue"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling": "mean"}, "trained on mean rows, .* only one of residue rows can be spliced"),
        ({"pooling": "unknown"}, 'record "pooling": "residue" in a config.json beside it'),
        ({"encoder": "esmc_300m"}, "differ in encoder .esmc_demo and esmc_300m"),
        ({"weights_sha256": "1" * 64}, "differ in encoder weights"),
        ({"layer": 1}, r"differ in layer \(2 and 1\)"),
        ({"width": 128}, "256 wide, the checkpoint reads rows 128 wide"),
        ({"training": {"split": {"seed": 5, "similarity_clusters": None}}}, "another split"),
    ],
)
def test_an_sae_of_other_rows_is_refused(demo, fasta, tmp_path, config, message):
    sae = FakeSAE(lambda rows: rows, **{"width": 256, **ENCODED, **config})
    with pytest.raises(InputError, match=message):
        measured(sae, demo, fasta, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_without_a_head_is_refused(fasta, tmp_path):
    register_encoder("toy", ToyBackbone)
    toy = load_encoder("toy", device="cpu")
    with pytest.raises(InputError, match="'toy': has no sequence head"):
        measured(FakeSAE(lambda rows: rows, 4), toy, fasta, tmp_path / "out", layer=1)


@pytest.mark.parametrize("split", ["test", "train"])
def test_without_proteins_of_a_split_it_says_so(demo, write_fasta, tmp_path, split):
    names = [f"P{number}" for number in range(40)]
    others = [name for name in names if splits_of([name])[0] != split]
    path = write_fasta([(name, "MKVLAW") for name in others])
    with pytest.raises(InputError, match=f"none of its proteins falls into the split '{split}'"):
        measured(FakeSAE(lambda rows: rows, 256), demo, path, tmp_path / "out")


def test_a_reconstruction_that_is_not_finite_is_refused(demo, fasta, tmp_path):
    sae = FakeSAE(lambda rows: np.full_like(rows, np.nan), 256)
    with pytest.raises(InputError, match="esmc_demo gives values that are not finite with"):
        measured(sae, demo, fasta, tmp_path / "out")


@pytest.fixture
def checkpoint(tmp_path, demo):
    folder = tmp_path / "L8_k2"
    folder.mkdir()
    kernel = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)
    file = folder / "checkpoint_epoch_1.npy"
    write_checkpoint(
        file,
        encoder=kernel,
        decoder=kernel.T / np.linalg.norm(kernel, axis=0)[:, None],
        latent_bias=np.zeros(8),
        pre_bias=np.zeros(256),
    )
    weights = demo.weights_sha256
    config = functools.partial(SAEConfig, 256, 8, 2, final_checkpoint=file.name)
    write_config(folder, config(layer=2, weights_sha256=weights, **ENCODED))
    return folder


def run(fasta, checkpoint, output, *options):
    given = ["--fasta", fasta, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]
    return model_fidelity.main([*map(str, given), "--quiet", *map(str, options)])


def test_the_command_takes_what_the_checkpoint_records(fasta, checkpoint, tmp_path, capsys):
    assert run(fasta, checkpoint, tmp_path / "out", "--max_proteins", 5) == 0
    out = capsys.readouterr().out
    assert "k = 2, layer 2 of esmc_demo: " in out
    assert " held-out proteins in " in out
    assert "SAE spliced in: cross-entropy" in out
    assert out.count("loss recovered of") == 2
    assert run(fasta, checkpoint, tmp_path / "out", "--max_proteins", 5) == 0
    assert "(unchanged)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layer", 1), "differ in layer"),
        (("--layer", 9), "esmc_demo has layers 0 to 3"),
    ],
)
def test_what_the_command_cannot_use_is_one_line(
    fasta, checkpoint, tmp_path, capsys, options, message
):
    assert run(fasta, checkpoint, tmp_path / "out", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
