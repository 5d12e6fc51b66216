import numpy as np
import pytest
import torch

from esm_sae.data import encoder_training
from esm_sae.data.encoder_training import TrainingOptions, new_model, train_encoder
from esm_sae.data.perplexity import perplexity, tokenizer
from esm_sae.embedding.esmc import vocabulary_of
from esm_sae.errors import InputError

SMALL = TrainingOptions(
    width=32, heads=2, blocks=1, steps=6, row_tokens=32, rows=4, warmup=2, masked_share=0.3
)


@pytest.fixture(scope="module")
def proteins():
    """Return proteins in which a residue follows from its neighbours."""
    encode = vocabulary_of(tokenizer()).encode
    return [encode("ACDEFGHIKLMNPQRSTVWY"[start:] * 3).ids for start in range(10)] * 4


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(encoder_training, "_STEPS_BETWEEN_LOOKS", 2)


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    for name, tensor in weights_of(one).items():
        np.testing.assert_array_equal(tensor, weights_of(other)[name])


def test_it_learns_what_follows_from_the_context(proteins, tmp_path):
    options = TrainingOptions(
        width=64, heads=1, blocks=2, steps=60, row_tokens=32, rows=16, warmup=5, masked_share=0.3
    )

    def measured(model):
        return perplexity(model, proteins, width=32, rows=16)

    before = measured(new_model(options))
    model, curve = train_encoder(
        proteins, proteins, options, device="cpu", state=tmp_path / "state.pt"
    )
    assert before > 15
    assert measured(model) < 6
    assert [entry["step"] for entry in curve] == list(range(2, 61, 2))
    assert curve[-1]["held_out_perplexity"] == round(measured(model), 3)


def test_an_interrupted_training_ends_with_the_same_weights(proteins, tmp_path, monkeypatch):
    def train(name):
        return train_encoder(proteins, proteins, SMALL, device="cpu", state=tmp_path / name)

    whole, curve = train("whole.pt")
    take_step = encoder_training._take_step

    def stopping(model, optimizers, batch, step):
        if step == 3:
            raise KeyboardInterrupt
        return take_step(model, optimizers, batch, step)

    monkeypatch.setattr(encoder_training, "_take_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train("stopped.pt")
    steps = []

    def counted(model, optimizers, batch, step):
        steps.append(step)
        return take_step(model, optimizers, batch, step)

    monkeypatch.setattr(encoder_training, "_take_step", counted)
    resumed, resumed_curve = train("stopped.pt")
    assert steps == [2, 3, 4, 5]
    assert_same(resumed, whole)
    assert resumed_curve == curve


def test_the_seed_decides():
    assert_same(new_model(SMALL), new_model(SMALL))
    other = new_model(TrainingOptions(**{**vars(SMALL), "seed": 1}))
    assert (other.embed.weight != new_model(SMALL).embed.weight).any()


def test_the_state_of_another_training_is_refused(proteins, tmp_path):
    state = tmp_path / "state.pt"
    train_encoder(proteins, proteins, SMALL, device="cpu", state=state)
    other = TrainingOptions(**{**vars(SMALL), "steps": 8})
    with pytest.raises(InputError, match=r"state\.pt: the state of another training"):
        train_encoder(proteins, proteins, other, device="cpu", state=state)


def test_attention_stays_within_a_protein():
    model = new_model(SMALL).eval()
    encode = vocabulary_of(tokenizer()).encode
    one, other = encode("MKVLA").ids, encode("WWWWWWW").ids
    together = np.concatenate([one, other])
    owners = np.repeat([0, 1], [len(one), len(other)])
    with torch.inference_mode():
        states = model.embed(torch.from_numpy(together)[None])
        block = model.transformer.blocks[0]
        packed = block(states, torch.from_numpy(owners)[None], None, None, None)
        alone = block(model.embed(torch.from_numpy(one)[None]), None, None, None, None)
    torch.testing.assert_close(packed[:, : len(one)], alone)
