"""What the names of proteins tell: a family, and words."""

import re

import polars as pl

_PARENTHESES = re.compile(r"\s*\([^)]*\)")
_HEDGES = re.compile(r"^(?:putative|probable|predicted|possible|similar to)\s+")
_TELLS_NO_FAMILY = re.compile(r"uncharacteri[sz]ed|hypothetical|unnamed|unknown|^protein\b|^orf")

# A word is a run of letters and digits: 'ATP-binding' is two.
_WORD = r"[\p{L}\p{N}]+"
# Of a word that is all digits, or one letter, there is nothing to learn.
_TELLING = r"\p{L}.*[\p{L}\p{N}]|\p{N}.*\p{L}"
# What annotators write where they know nothing, or of any protein.
# fmt: off
_SAYS_NOTHING = [
    "and", "as", "associated", "at", "be", "by", "cdna", "chromosome", "clone", "conserved",
    "containing", "contig", "domain", "duf", "ec", "expressed", "family", "for", "fragment",
    "fragments", "frame", "from", "full", "gene", "genome", "genomic", "highly", "homolog",
    "homologous", "homologue", "hypothetical", "in", "involved", "isoform", "isoforms",
    "isolate", "length", "like", "low", "member", "of", "open", "or", "orf", "partial",
    "possible", "potential", "precursor", "predicted", "probable", "product", "protein",
    "proteins", "putative", "quality", "reading", "related", "scaffold", "sequence", "shotgun",
    "similar", "similarity", "strain", "subfamily", "superfamily", "the", "to", "type",
    "uncharacterised", "uncharacterized", "undefined", "unidentified", "unknown", "unnamed",
    "variant", "whole", "with",
]
# fmt: on


def family_of(name: str) -> str | None:
    """Return the family that a protein's name tells, None where it tells none.

    The name in lower case without what stands in parentheses ('(Fragment)') and without words
    of doubt ('Putative'); names such as 'Uncharacterized protein' tell none.
    """
    plain = _PARENTHESES.sub("", name.lower())
    plain = _HEDGES.sub("", " ".join(plain.split()))
    return plain if plain and not _TELLS_NO_FAMILY.search(plain) else None


def words_of(names: pl.Expr) -> pl.Expr:
    """Return the distinct telling words of protein names, in lower case, as lists.

    >>> words = words_of(pl.lit("Putative 50S ribosomal protein L35 (Fragment)"))
    >>> sorted(pl.select(words).item())
    ['50s', 'l35', 'ribosomal']
    """
    word = pl.element()
    telling = word.str.contains(_TELLING) & ~word.is_in(_SAYS_NOTHING)
    return names.str.to_lowercase().str.extract_all(_WORD).list.eval(word.filter(telling).unique())
