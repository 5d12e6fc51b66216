"""From residue letters to token ids."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from esm_sae.errors import InputError

SPECIAL_TOKENS = 2

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_UNKNOWN = "X"


class Tokens(NamedTuple):
    """A tokenised sequence.

    Attributes:
        ids: BOS, one token per residue, EOS; shape (L + 2,), int64.
        unknown: number of residues whose letter the encoder does not know, read as X.
    """

    ids: np.ndarray
    unknown: int


class Vocabulary:
    """The token ids of an encoder: those of the residue letters, BOS, EOS and PAD."""

    def __init__(self, letters: Mapping[str, int], *, bos: int, eos: int, pad: int) -> None:
        self.bos, self.eos, self.pad = bos, eos, pad
        self._id_of = np.full(256, -1, dtype=np.int64)
        self._is_unknown = np.zeros(256, dtype=bool)
        for letter in _LETTERS:
            known = letter in letters
            for case in (letter, letter.lower()):
                self._id_of[ord(case)] = letters[letter if known else _UNKNOWN]
                self._is_unknown[ord(case)] = not known

    def encode(self, sequence: str) -> Tokens:
        """Tokenise a sequence; letters that the encoder does not know are read as X.

        Raises:
            InputError: the sequence is empty or holds something that is not a letter.
        """
        if not sequence:
            raise InputError("a sequence is empty; remove it or add its residues")
        codes = np.frombuffer(sequence.encode("latin-1", errors="replace"), dtype=np.uint8)
        residues = self._id_of[codes]
        if residues.min() < 0:
            position = int(np.argmin(residues))
            raise InputError(
                f"a sequence has {sequence[position]!r} at residue {position + 1}, which is not "
                "a residue letter"
            )
        ids = np.concatenate([[self.bos], residues, [self.eos]])
        return Tokens(ids, int(self._is_unknown[codes].sum()))
