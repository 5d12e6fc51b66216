"""The encoders of docs/encoders.md, as a user has them: one registered, one in a file."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils import import_utils

from esm_sae.embed_uniref import main as embed
from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder, open_shards
from esm_sae.errors import InputError
from esm_sae.formats.checkpoint import require_same_embeddings
from esm_sae.formats.shards import Provenance
from esm_sae.sae import TrainOptions, load_checkpoint, train_sae

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"
ESM2, ONE_HOT = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SEQUENCES = ["MKVLA", "AAC", "WWWWWWWWYJ", "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSG"]
TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1>"


def test_a_registered_encoder_works_like_any_other(write_fasta, tmp_path):
    exec(ONE_HOT, {})
    encoder = load_encoder("one_hot", device="cpu")
    sequences = SEQUENCES[:3]
    composition = [[s.count(c) / len(s) for c in "ACDEFGHIKLMNPQRSTVWY"] for s in sequences]
    np.testing.assert_allclose(encoder.embed(sequences), composition, rtol=1e-6)

    fasta = write_fasta([(f"P{number}", s) for number, s in enumerate(sequences)])
    embed_fasta(fasta, tmp_path / "s", encoder=encoder, options=EmbeddingOptions())
    shards = open_shards(tmp_path / "s")
    np.testing.assert_allclose(shards.arrays[0], composition, rtol=1e-6)
    assert shards.provenance.describe() == "one_hot (a toy), layer 1, mean rows"


def _torchvision_fits():
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        return False
    return True


# transformers imports torchvision where it is installed; of another build than torch it is broken.
WITHOUT_TORCHVISION = (
    ""
    if _torchvision_fits()
    else f"import {import_utils.__name__} as utils\nutils._torchvision_available = False\n"
)


@pytest.fixture(scope="module")
def esm2(tmp_path_factory):
    """The file of the page in a folder that is imported from, and a small model beside it."""
    folder = tmp_path_factory.mktemp("esm2")
    (folder / "esm2_of_the_page.py").write_text(WITHOUT_TORCHVISION + ESM2)
    sys.path.insert(0, str(folder))
    importlib.import_module("esm2_of_the_page")
    from transformers import EsmConfig, EsmModel, EsmTokenizer

    (folder / "vocab.txt").write_text("\n".join([*TOKENS.split(), "<mask>"]))
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    model = EsmModel(
        EsmConfig(
            vocab_size=33,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            position_embedding_type="rotary",
            token_dropout=True,
            emb_layer_norm_before=False,
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.mask_token_id,
        )
    )
    for parameter in model.parameters():
        # Those of new models are so small that each token's state is its own embedding.
        torch.nn.init.normal_(parameter, std=0.3)
    for target in (model, tokenizer):
        target.save_pretrained(folder / "model")
    yield folder
    sys.path.remove(str(folder))
    del sys.modules["esm2_of_the_page"]


@pytest.fixture(scope="module")
def encoder(esm2):
    return load_encoder("esm2_of_the_page:ESM2", weights=esm2 / "model", device="cpu")


@pytest.fixture(scope="module")
def reference(esm2):
    """States of each layer and sequence, one at a time, through transformers alone."""
    from transformers import EsmModel, EsmTokenizer

    model = EsmModel.from_pretrained(esm2 / "model").eval()
    tokenizer = EsmTokenizer.from_pretrained(esm2 / "model")
    found = []
    for sequence in SEQUENCES:
        tokens = tokenizer(sequence.replace("J", "X"), return_tensors="pt")
        with torch.inference_mode():
            result = model(**tokens, output_hidden_states=True)
        assert torch.equal(result.hidden_states[-1], result.last_hidden_state)
        found.append([states[0].numpy() for states in result.hidden_states])
    return found


def test_esm2_has_every_layer_of_transformers_whatever_the_batch(encoder, reference):
    assert (encoder.width, encoder.blocks) == (32, 2)
    for layer in (2, 0, 1, -1):
        states = [of_layers[layer] for of_layers in reference]
        for tokens in (None, 60):
            options = {"layer": layer, "batch_tokens": tokens}
            residues = encoder.embed(SEQUENCES, pooling="residue", **options)
            expected = np.concatenate([matrix[1:-1] for matrix in states])
            np.testing.assert_allclose(residues, expected, atol=1e-5)
            means = encoder.embed(SEQUENCES, **options)
            np.testing.assert_allclose(means, [m[1:-1].mean(0) for m in states], atol=1e-5)
            bos = encoder.embed(SEQUENCES, pooling="bos", **options)
            np.testing.assert_allclose(bos, [matrix[0] for matrix in states], atol=1e-5)


def test_esm2_computes_one_block_beyond_the_layer_at_most(encoder):
    for layer, blocks in ((0, 1), (1, 2), (2, 2)):
        encoder.embed(["MKV"], layer=layer)
        assert len(encoder.backbone.model.encoder.layer) == blocks


def test_esm2_in_a_command_and_its_rows_are_not_those_of_others(
    esm2, encoder, write_fasta, tmp_path, python_environment
):
    fasta = write_fasta([(f"P{number}", s * 3) for number, s in enumerate(SEQUENCES)])
    line = f"--fasta {fasta} --model esm2_of_the_page:ESM2 --weights {esm2 / 'model'} --quiet "
    line += f"--pooling residue --device cpu --output {tmp_path / 'shards'}"
    places = os.pathsep.join([str(esm2), python_environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "esm_sae.embed_uniref", *line.split()]
    subprocess.run(command, check=True, env=python_environment | {"PYTHONPATH": places})
    shards = open_shards(tmp_path / "shards")
    assert shards.provenance.encoder == "esm2_of_the_page:ESM2"
    assert shards.provenance.weights_sha256 == encoder.weights_sha256
    expected = encoder.embed([s * 3 for s in SEQUENCES], pooling="residue")
    np.testing.assert_allclose(shards.arrays[0], expected, atol=1e-5)
    # The same process says unchanged: the hash of the weights is the same every time.
    assert embed(line.split()) == 0

    product = train_sae(shards, tmp_path / "L16_k3", TrainOptions(16, 3, num_epochs=1)).product
    config = load_checkpoint(product.path).config
    rows = EmbeddingOptions(pooling="residue").provenance(encoder)
    require_same_embeddings(config, rows, 32, "encoder")
    esmc = Provenance("esmc_300m", "", "0" * 64, 2, "residue", "float32")
    with pytest.raises(InputError, match="esm2_of_the_page:ESM2"):
        require_same_embeddings(config, esmc, 32, "shards of ESM-C")
