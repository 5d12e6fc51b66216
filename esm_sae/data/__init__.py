"""What comes with the package: proteins and an encoder, so that demo and tests need no download.

``proteins.fasta.gz`` holds UniProtKB records, ``similarity_clusters.parquet`` their clusters at
30% identity, and ``provenance.json`` where both come from and under which licence. The module
``cut_proteins`` made all three. ``encoder.safetensors`` holds the weights of the encoder
``esmc_demo``, ``encoder_training.json`` how they were trained (by ``train_encoder``) and
``encoder_measures.json`` what they are worth (by ``judge_encoder``).
"""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def bundled_fasta() -> Path:
    """Return the path of the bundled proteins, a gzipped FASTA file."""
    return _FOLDER / "proteins.fasta.gz"


def bundled_clusters() -> Path:
    """Return the path of the similarity clusters: parquet, ``sequence_id`` and ``cluster_id``.

    The table also covers the records of the source that are not bundled.
    """
    return _FOLDER / "similarity_clusters.parquet"


def bundled_encoder() -> Path:
    """Return the path of the weights of the encoder ``esmc_demo``, bfloat16 safetensors."""
    return _FOLDER / "encoder.safetensors"


def provenance() -> dict[str, Any]:
    """Return where the bundled proteins come from: source, licence, method, counts, sha256."""
    return json.loads((_FOLDER / "provenance.json").read_text(encoding="utf-8"))
