"""From residue letters to token ids."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

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

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Self:
        """Return the token ids of a tokenizer of ``transformers`` whose tokens are residues.

        BOS and EOS are its own, or the CLS and SEP of tokenizers that call them so. As a table they
        are found far faster than by the tokenizer.

        Raises:
            InputError: it has no X, BOS, EOS or PAD.
        """
        ids: Mapping[str, int] = tokenizer.get_vocab()
        letters = {token: number for token, number in ids.items() if len(token) == 1}
        special = {
            "BOS": _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
            "EOS": _first(tokenizer.eos_token_id, tokenizer.sep_token_id),
            "PAD": tokenizer.pad_token_id,
            _UNKNOWN: letters.get(_UNKNOWN),
        }
        if missing := [name for name, number in special.items() if number is None]:
            raise InputError(
                f"{type(tokenizer).__name__}: has no token {missing[0]}; give the ids themselves, "
                "as Vocabulary(letters, bos=, eos=, pad=)"
            )
        return cls(
            letters,
            bos=special["BOS"],
            eos=special["EOS"],
            pad=special["PAD"],
            mask=tokenizer.mask_token_id,
        )

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


def _first(*numbers: int | None) -> int | None:
    return next((number for number in numbers if number is not None), None)
