"""The settings that outputs depend on: samples, embedding, autoencoders, clusters, analysis."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from esm_sae import storage
from esm_sae.clusters import Backend, Layout, Organism, Rank, Selection
from esm_sae.errors import InputError
from esm_sae.sae.options import TrainOptions
from esm_sae_assets.settings.section import Section, split_list

LARGE_SAMPLE, SMALL_SAMPLE = "uniref50_10M_sample", "uniref50_1M_sample"

_MOST = 2**31 - 1


class SampleSettings(Section):
    """The two samples of the source; a smaller source gives smaller samples."""

    large_size: int = Field(default=10_000_000, ge=1)
    """Most records in the large sample."""
    large_max_length: int = Field(default=2048, ge=1, le=_MOST)
    """Most residues of a record in the large sample."""
    small_size: int = Field(default=1_048_576, ge=1)
    """Most records in the small sample, which is drawn from the large one."""
    small_max_length: int = Field(default=256, ge=1, le=_MOST)
    """Most residues of a record in the small sample."""
    min_length: int = Field(default=1, ge=1)
    """Fewest residues of a record in either sample."""
    letters: str = ""
    """Residue letters that a record may have, such as ACDEFGHIKLMNPQRSTVWY; empty: all 26."""
    taxa: tuple[str, ...] = ()
    """TaxIDs, or names as the headers give them, of which a record's own must be one; empty: any.
    In the environment separated by commas."""
    drop_identical: bool = False
    """Whether of records with one sequence only the first is kept."""

    @field_validator("taxa", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_list(value)


class EmbeddingSettings(Section):
    """What a row of an embedding shard is, and how rows are computed."""

    sample: Literal["uniref50_10M_sample", "uniref50_1M_sample"] = SMALL_SAMPLE
    """The sample that is embedded and trained on."""
    encoder: str = "esmc_300m"
    """Name of the encoder, or ``package.module:function`` of one of your own."""
    weights: str = ""
    """Path of the encoder's weights; empty: bundled, or from the hub. An encoder of your own may
    take it as something else, such as the id of a model."""
    layer: int = -1
    """Layer, 0 to the number of blocks; -1 is the last, after the final norm."""
    pooling: Literal["mean", "max", "last", "bos", "residue"] = "mean"
    """What a row is: a protein (the mean or the maximum over its residues, its last residue, or
    its BOS token), or a residue."""
    residues_per_protein: int | None = Field(default=None, ge=1, le=_MOST)
    """With residue rows: how many residues of a protein are kept, drawn at random."""
    max_length: int | None = Field(default=None, ge=1, le=_MOST)
    """Most residues of a protein that the encoder gets at once; none: all."""
    long_sequences: Literal["truncate", "window", "skip"] = "truncate"
    """What becomes of longer proteins: cut off, embedded in overlapping windows, or left out."""
    sequences_per_shard: int = Field(default=16_384, ge=1)
    """Most sequences in a shard."""
    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the shards."""
    device: str = ""
    """Device of the encoder, such as cpu or cuda; empty: a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the forward pass; auto is bfloat16 on a GPU, else float32."""
    batch_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """Most tokens in a batch, padding included; none: what suits the device."""

    @property
    def device_kind(self) -> str:
        """The device without its number, which does not change the rows; its kind does."""
        return self.device.partition(":")[0]


class SAESettings(Section):
    """The sparse autoencoders."""

    latent_dim: int = Field(default=3840, ge=1)
    """L, the number of latents."""
    ks: tuple[int, ...] = (16, 32, 64)
    """The values of k; one autoencoder is trained for each."""
    batch_size: int = Field(default=4096, ge=1)
    """Rows in a training step."""
    num_epochs: int = Field(default=10, ge=1)
    """Passes over the training rows."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam."""
    activation: Literal["topk", "batchtopk", "jumprelu"] = "topk"
    """What decides which latents fire: the k largest of a row, those of a batch (k a row in the
    mean, and after the training a threshold), or trained thresholds."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: numbers of first latents that are to reconstruct rows by themselves."""
    k_start: int = Field(default=1, ge=1, le=_MOST)
    """k of the first step as a multiple of k, to which it falls over the first quarter of the
    steps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the matrix products; sums and weights are float32 in either."""
    aux_alpha: float = Field(default=1 / 32, ge=0, allow_inf_nan=False)
    """Weight of the auxiliary loss (AuxK), which revives dead latents; 0 switches it off."""
    aux_k: int | None = Field(default=None, ge=1, le=_MOST)
    """Dead latents that take part in it for a row; none: half the width of a row."""
    latent_bias: bool = True
    """Whether the latents' bias is trained; else it stays 0."""
    tied: bool = False
    """Whether the encoder stays the decoder's transpose."""
    normalize: bool = False
    """Whether each row is z-scored before it is encoded."""
    normalize_ddof: Literal[0, 1] = 0
    """What the deviation of that is short of D in its divisor; 1 as in Biohub's SAEs."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Epochs between the checkpoints kept beside the final one; 0: only the final one."""
    project: str = ""
    """Name of the group of runs, kept in every checkpoint's config."""
    fidelity_proteins: int = Field(default=100, ge=1)
    """Most held-out proteins on which an autoencoder is spliced into the encoder, and most
    training proteins for the mean state; with residue rows alone."""
    replicate: bool = False
    """Whether each autoencoder is trained once more, with another seed."""
    untrained_baseline: bool = False
    """Whether autoencoders of the untrained encoder's rows are trained to compare with."""
    imported: str = ""
    """Path of an autoencoder, of any form that is read, to take in place of training one."""
    license: str = ""
    """Licence that the cards of shared autoencoders state, such as cc-by-4.0; empty: none."""

    @field_validator("ks", "prefixes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_list(value)

    @field_validator("ks")
    @classmethod
    def _require_distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value) or min(value) < 1:
            raise ValueError("expected distinct positive numbers, such as 16,32,64")
        return value

    @model_validator(mode="after")
    def _require_variant(self) -> Self:
        for k in self.ks:
            try:
                TrainOptions(
                    self.latent_dim, k, prefixes=self.prefixes, k_start=self.k_start
                ).check_variant()
            except InputError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _require_what_can_be_imported(self) -> Self:
        if self.imported and storage.is_url(self.imported):
            raise ValueError("imported is a URL; download it and give its path")
        if self.imported and (len(self.ks) > 1 or self.replicate or self.untrained_baseline):
            raise ValueError(
                "an imported autoencoder has one k and no training that could be repeated; set "
                "ESM_SAE_SAE_KS to its k, ESM_SAE_SAE_REPLICATE=false and "
                "ESM_SAE_SAE_UNTRAINED_BASELINE=false"
            )
        return self


class ClusterSettings(Section):
    """Taxon clusters and clusters of the embedding space."""

    taxonomy: str = ""
    """NCBI's taxonomy (taxdump): its folder or archive, or the archive's URL, which is downloaded.
    Empty: taxa stay as the headers give them."""
    taxonomy_checksum: str = ""
    """Checksum of a downloaded taxonomy, such as ``md5:...``; empty: none is known."""
    rank: Literal["", Rank] = ""
    """Rank that taxa are lifted to, which needs a taxonomy; empty: they stay as they are."""
    organism: Organism = "common_ancestor"
    """Whose taxon a UniRef record has: its members' common ancestor's, or its representative's."""
    species_list: str = ""
    """UniProt's list of organism codes (speclist.txt), a path or a URL, which is downloaded; it
    gives representatives a TaxID. Empty: they are known by their codes."""
    taxon_min_size: int = Field(default=2_500, ge=1)
    """Fewest proteins, within the small sample's lengths, of a taxon that is sampled."""
    per_taxon: int = Field(default=100, ge=1)
    """Proteins sampled from each taxon."""
    match_lengths: bool = False
    """Whether the samples of all taxa have the same lengths, so that length can't pose as
    taxonomy."""
    min_cluster_size: int = Field(default=50, ge=2)
    """Fewest proteins of a cluster that HDBSCAN reports."""
    min_samples: int = Field(default=5, ge=1)
    """HDBSCAN's min_samples: the larger, the more proteins are noise."""
    components: int = Field(default=50, ge=1)
    """Principal components that HDBSCAN sees."""
    fit_rows: int = Field(default=20_000, ge=2)
    """Most proteins that HDBSCAN is fitted to; the others are predicted."""
    selection: Selection = "auto"
    """Persistent clusters (eom) or the finest (leaf); auto takes eom unless it puts over 80% of
    the proteins into one cluster."""
    backend: Backend = "hdbscan"
    """Package that fits HDBSCAN; fast_hdbscan comes with the extra ``fast``."""
    map: Layout = "pca"
    """Layout of the map of the proteins; umap comes with the extra ``umap``."""

    @model_validator(mode="after")
    def _require_taxonomy(self) -> Self:
        if self.rank and not self.taxonomy:
            raise ValueError(f"rank '{self.rank}' needs a taxonomy; set clusters.taxonomy")
        if self.taxonomy_checksum and not storage.is_http_url(self.taxonomy):
            raise ValueError("taxonomy_checksum is that of a download; the taxonomy is none")
        if self.species_list and self.organism != "representative":
            raise ValueError("species_list is read only with organism = representative")
        if self.organism == "representative" and self.taxonomy and not self.species_list:
            raise ValueError(
                "organism codes have a TaxID only by a species list; set clusters.species_list"
            )
        return self


class AnalysisSettings(Section):
    """What is asked of the latents."""

    annotations: str = ""
    """UniProt export of the sample's proteins, as TSV: keywords, EC, GO, Pfam, InterPro, features
    with positions. Empty: concepts are the names in the headers and what the sequences show."""
    min_positives: int = Field(default=5, ge=1)
    """Fewest proteins with a concept, in validation and in test each, for which it is scored."""
    permutations: int = Field(default=200, ge=0)
    """Permutations of the taxa that the enrichment is calibrated by; 0: none."""
    decoder_min_cluster_size: int = Field(default=5, ge=2)
    """Fewest latents of a cluster of decoder rows."""
    match_rows: int = Field(default=65_536, ge=2)
    """Most held-out rows over which latents of two autoencoders are correlated."""
