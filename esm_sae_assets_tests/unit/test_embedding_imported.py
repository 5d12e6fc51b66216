"""Encoders that are named by where Python finds them, and what is said of those that are none."""

import sys

import numpy as np
import pytest

from esm_sae import model_fidelity, score
from esm_sae.embedding import Vocabulary, load_encoder
from esm_sae.embedding.cli_options import recorded_encoder
from esm_sae.embedding.encoders import known_size
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae_assets.settings import load_settings

CODE = """
import torch
from esm_sae.embedding import Vocabulary

class Plain:
    width, blocks, note, weights_sha256 = 2, 1, "", "0" * 64
    vocabulary = Vocabulary({"A": 3, "C": 4, "X": 5}, bos=0, eos=1, pad=2)

    def __init__(self, weights, device):
        self.weights = weights

    def states(self, tokens, *, layer, padded):
        return torch.stack([tokens, tokens], dim=-1).float()

def Plain_untrained(weights, device):
    return Plain(weights, device)

def narrow(weights, device):
    made = Plain(weights, device)
    made.width = "2"
    return made

def silent(weights, device):
    made = Plain(weights, device)
    made.states = None
    return made

def broken(weights, device):
    raise OSError("no such weights\\nand more")

def headed(weights, device):
    raise RuntimeError("because of the following error:\\noperator nms does not exist\\nand more")

def nothing(weights, device):
    return None

number = 3
"""


@pytest.fixture(autouse=True)
def importable(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "own.py").write_text(CODE)
    (tmp_path / "own_faulty.py").write_text("raise KeyError('at import')")
    (tmp_path / "own_needing.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_imported_and_gets_weights_as_they_are_given():
    encoder = load_encoder("own_package.own:Plain", weights="someone/a-model", device="cpu")
    assert encoder.name == "own_package.own:Plain"
    assert encoder.backbone.weights == "someone/a-model"
    np.testing.assert_allclose(encoder.embed(["AAC", "C"]), [[10 / 3] * 2, [4] * 2], rtol=1e-6)
    assert known_size(encoder.name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_package.own:Missing", "own_package.own has no Missing; expected a function of the"),
        ("own_package.own:number", "own_package.own has something that cannot be called as its nu"),
        ("own_package.none:Plain", "there is no module own_package.none; start in its folder"),
        ("no_such_package.own:Plain", "there is no module no_such_package; start in its folder"),
        ("own_faulty:Plain", r"cannot import own_faulty \(KeyError: 'at import', at .*faulty.py:1"),
        ("own_needing:Plain", "cannot import own_needing .*No module named 'no_such_dependency'"),
        ("own_package.own:broken", r"cannot be built \(OSError: no such weights, at .*own.py:29\)"),
        (
            "own_package.own:headed",
            r"\(RuntimeError: because of the following error: operator nms does not exist, at",
        ),
        ("own_package.own:nothing", "what was built for it, a NoneType, has no width"),
        ("own_package.own:narrow", "a Plain, has no width that is a whole number"),
        ("own_package.own:silent", "a Plain, has no method states"),
        ("own_package.own:", "expected one of esmc_300m, .*, or one of your own as package.module"),
        ("../own:Plain", "expected one of esmc_300m"),
        ("own_package.own:Plain.x", "expected one of esmc_300m"),
    ],
)
def test_what_is_no_encoder_is_told_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(name, device="cpu")
    assert f"encoder '{name}': " in str(caught.value)


def test_settings_take_it_and_ask_for_its_untrained_twin_where_that_is_wanted():
    chosen = {"ESM_SAE_EMBEDDING_ENCODER": "own_package.own:Plain"}
    settings = load_settings(chosen)
    assert settings.sae.untrained_baseline
    assert settings.untrained_encoder == "own_package.own:Plain_untrained"
    other = {"ESM_SAE_EMBEDDING_ENCODER": "own_package.own:nothing"}
    with pytest.raises(InputError, match=r"no untrained twin .*define 'own_package"):
        load_settings(other)
    off = other | {"ESM_SAE_SAE_UNTRAINED_BASELINE": "false"}
    assert load_settings(off).embedding.encoder == "own_package.own:nothing"


class Tokenizer:
    cls_token_id, eos_token_id, pad_token_id = 0, None, 2
    bos_token_id, sep_token_id, mask_token_id = None, 3, 8

    def __init__(self, **changed):
        vars(self).update(changed)

    def get_vocab(self):
        return {"<cls>": 0, "<pad>": 2, "[SEP]": 3, "A": 4, "X": 5, "C": 6, "##": 7}


def test_a_tokenizer_gives_its_residues_and_special_tokens():
    vocabulary = Vocabulary.from_tokenizer(Tokenizer())
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (0, 3, 2)
    assert vocabulary.mask == 8
    tokens = vocabulary.encode("acJ")
    assert (tokens.ids.tolist(), tokens.unknown) == ([0, 4, 6, 5, 3], 1)
    with pytest.raises(InputError, match="Tokenizer: has no token PAD"):
        Vocabulary.from_tokenizer(Tokenizer(pad_token_id=None))


def test_no_command_imports_an_encoder_that_a_checkpoint_records():
    config = SAEConfig(8, 16, 4, encoder="this:nothing")
    with pytest.raises(InputError, match="only run when you name it; if you trust it: --model"):
        recorded_encoder(config, "checkpoint.npy")
    assert "this" not in sys.modules
    # Both commands that take an encoder from a checkpoint ask this function.
    assert score.recorded_encoder is model_fidelity.recorded_encoder is recorded_encoder
