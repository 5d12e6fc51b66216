"""From residue letters to token ids."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from esm_sae.errors import InputError

BOS_TOKENS = 1
SPECIAL_TOKENS = 2

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_UNKNOWN = "X"
_MEANINGS = {
    "-": "a gap; remove the alignment's gaps",
    ".": "a gap; remove the alignment's gaps",
    "*": "a stop; end the sequence before it",
}


class Tokens(NamedTuple):
    """A tokenised sequence.

    Attributes:
        ids: BOS, one token per residue, EOS; shape (L + 2,), int64.
        unknown: number of residues whose letter the encoder does not know, read as X.
    """

    ids: np.ndarray
    unknown: int


class Vocabulary:
    """The token ids of an encoder: residue letters, BOS, EOS, PAD, and MASK where it has one."""

    def __init__(
        self,
        letters: Mapping[str, int],
        *,
        bos: int,
        eos: int,
        pad: int,
        mask: int | None = None,
    ) -> None:
        self.bos, self.eos, self.pad, self.mask = bos, eos, pad, mask
        self._id_of = np.full(256, -1, dtype=np.int64)
        self._is_unknown = np.zeros(256, dtype=bool)
        for letter in _LETTERS:
            known = letter in letters
            for case in (letter, letter.lower()):
                self._id_of[ord(case)] = letters[letter if known else _UNKNOWN]
                self._is_unknown[ord(case)] = not known

    def encode(self, sequence: str) -> Tokens:
        """Tokenise a sequence, in either case; unknown letters are read as X and counted.

        Raises:
            InputError: the sequence is empty or holds something that is not a letter.
        """
        if not sequence:
            raise InputError("empty; remove it or add its residues")
        codes = np.frombuffer(sequence.encode("latin-1", errors="replace"), dtype=np.uint8)
        residues = self._id_of[codes]
        if residues.min() < 0:
            position = int(np.argmin(residues))
            letter = sequence[position]
            meaning = _MEANINGS.get(letter, "not a residue letter")
            raise InputError(f"{letter!r} at residue {position + 1} is {meaning}")
        ids = np.concatenate([[self.bos], residues, [self.eos]])
        return Tokens(ids, int(self._is_unknown[codes].sum()))

    def require_residues(self, sequence: str, name: str) -> None:
        """Refuse a sequence that cannot be tokenised.

        Raises:
            InputError: as ``encode``, with the sequence's name in front.
        """
        try:
            self.encode(sequence)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
