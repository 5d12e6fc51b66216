"""Sequences: where they come from, reading them and drawing uniform samples of them."""

from esm_sae.formats.fasta import Record, read_fasta
from esm_sae.formats.headers import Header, parse_header
from esm_sae.sequences.sampling import SampleReport, sample_fasta
from esm_sae.sequences.source import SourceFile, provide_source, provided_source

__all__ = [
    "Header",
    "Record",
    "SampleReport",
    "SourceFile",
    "parse_header",
    "provide_source",
    "provided_source",
    "read_fasta",
    "sample_fasta",
]
