"""Embedding proteins: encoders by name, pooled rows, shards, embedded clusters.

Importing this package imports neither torch nor esm; the functions do so when they need them.
"""

from esm_sae.embedding.backbone import Backbone
from esm_sae.embedding.clusters import embed_clusters
from esm_sae.embedding.encoder import Encoder
from esm_sae.embedding.encoders import (
    encoder_names,
    load_encoder,
    register_encoder,
)
from esm_sae.embedding.options import EmbeddingOptions
from esm_sae.embedding.pt_matrices import ConversionReport, convert_pt
from esm_sae.embedding.pt_shards import convert_pt_to_shards
from esm_sae.embedding.shards import ShardResult, embed_fasta, embed_shard
from esm_sae.embedding.tokens import Vocabulary
from esm_sae.formats.shards import open_shards

__all__ = [
    "Backbone",
    "ConversionReport",
    "EmbeddingOptions",
    "Encoder",
    "ShardResult",
    "Vocabulary",
    "convert_pt",
    "convert_pt_to_shards",
    "embed_clusters",
    "embed_fasta",
    "embed_shard",
    "encoder_names",
    "load_encoder",
    "open_shards",
    "register_encoder",
]
