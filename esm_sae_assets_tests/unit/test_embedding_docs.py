import re
from pathlib import Path

import numpy as np

from esm_sae.embedding import EmbeddingOptions, embed_fasta, load_encoder, open_shards

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"


def test_the_encoder_of_the_docs_works_like_any_other(write_fasta, tmp_path):
    code = re.search(r"```python\n(.*?register_encoder\(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(code.group(1), {})
    encoder = load_encoder("one_hot", device="cpu")
    sequences = ["MKVLA", "AAC", "WWWWWWWWYJ"]
    composition = [[s.count(c) / len(s) for c in "ACDEFGHIKLMNPQRSTVWY"] for s in sequences]
    np.testing.assert_allclose(encoder.embed(sequences), composition, rtol=1e-6)

    fasta = write_fasta([(f"P{number}", s) for number, s in enumerate(sequences)])
    embed_fasta(fasta, tmp_path / "s", encoder=encoder, options=EmbeddingOptions())
    shards = open_shards(tmp_path / "s")
    np.testing.assert_allclose(shards.arrays[0], composition, rtol=1e-6)
    assert shards.provenance.describe() == "one_hot (a toy), layer 1, mean rows"
