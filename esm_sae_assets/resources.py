"""Resources: where outputs live and what they are called, and the encoder."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from esm_sae.embedding import Encoder


class DataRoot(dg.ConfigurableResource):
    """The folder of all outputs, and the name of each."""

    root: str
    latent_dim: int

    def path(self, *parts: str) -> Path:
        """Return a path under the data root."""
        return Path(self.root, *parts)

    def sample(self, name: str) -> Path:
        """Return a sample's FASTA file."""
        return self.path(f"{name}.fasta")

    @property
    def shards(self) -> Path:
        """The folder of the embedding shards."""
        return self.path("embeddings3")

    @property
    def untrained_shards(self) -> Path:
        """The folder of the untrained encoder's shards."""
        return self.path("embeddings_untrained")

    @property
    def taxonomy_clusters(self) -> Path:
        """The table of taxon clusters."""
        return self.path("taxonomy_clusters.parquet")

    @property
    def cluster_statistics(self) -> Path:
        """Sizes and lengths of the taxa."""
        return self.path("cluster_statistics.json")

    @property
    def sampled_sequences(self) -> Path:
        """The sampled proteins of each taxon."""
        return self.path("sampled_sequences.json")

    @property
    def embedded_clusters(self) -> Path:
        """The sampled proteins with their embeddings."""
        return self.path("embedded_clusters.json")

    @property
    def embedding_clusters(self) -> Path:
        """The table of density clusters."""
        return self.path("embedding_clusters.parquet")

    @property
    def cluster_summary(self) -> Path:
        """The table of what each density cluster is."""
        return self.path("embedding_clusters.summary.parquet")

    @property
    def cluster_report(self) -> Path:
        """The page of the density clusters."""
        return self.path("embedding_clusters.html")

    @property
    def concept_annotations(self) -> Path:
        """The table of which protein has which concept."""
        return self.path("concept_annotations.parquet")

    @property
    def concept_baselines(self) -> Path:
        """The folder of what is held against the latents as marks of concepts."""
        return self.path("concept_baselines")

    @property
    def latent_matches(self) -> Path:
        """The folder of latents that two autoencoders share."""
        return self.path("latent_matches")

    def sae(self, k: int, variant: str = "") -> Path:
        """Return the folder of an autoencoder's checkpoints."""
        name = f"L{self.latent_dim}_k{k}"
        return self.path(f"{name}_{variant}" if variant else name)

    def metrics(self, k: int) -> Path:
        """Return the folder of an autoencoder's metrics."""
        return self.sae(k) / "metrics"

    def analysis(self, k: int, *parts: str) -> Path:
        """Return a path in the folder of an autoencoder's analysis."""
        return self.path("analysis", f"L{self.latent_dim}_k{k}", *parts)


class EncoderResource(dg.ConfigurableResource):
    """The protein language model; loaded once a process."""

    name: str
    weights: str = ""
    device: str = ""
    precision: str = "auto"

    def load(self) -> "Encoder":
        """Return the encoder.

        Raises:
            InputError: there is no such encoder, or its weights cannot be had.
        """
        return _load(self.name, self.weights, self.device, self.precision)


@functools.cache
def _load(name: str, weights: str, device: str, precision: str) -> "Encoder":
    from esm_sae.embedding import load_encoder

    return load_encoder(name, weights=weights or None, device=device or None, precision=precision)
