import string

import numpy as np
import pytest

from esm_sae.embedding import Vocabulary
from esm_sae.embedding.esmc import vocabulary_of
from esm_sae.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    from esm.tokenization import EsmSequenceTokenizer

    return EsmSequenceTokenizer()


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return vocabulary_of(tokenizer)


@pytest.mark.parametrize(
    "sequence", ["LAGVSERTIDPKQNFYMHWCXBUZO", "M", "ACDEFGHIKLMNPQRSTVWY" * 40]
)
def test_tokens_equal_those_of_the_esm_tokenizer(vocabulary, tokenizer, sequence):
    assert vocabulary.encode(sequence).ids.tolist() == tokenizer(sequence).input_ids


def test_a_letter_outside_the_vocabulary_is_read_as_x_and_counted(vocabulary):
    ids, unknown = vocabulary.encode("MJJKX")
    assert unknown == 2
    np.testing.assert_array_equal(ids, vocabulary.encode("MXXKX").ids)


def test_every_other_letter_is_known(vocabulary):
    assert vocabulary.encode(string.ascii_uppercase).unknown == 1


def test_lower_case_is_upper_case(vocabulary):
    np.testing.assert_array_equal(vocabulary.encode("mkj").ids, vocabulary.encode("MKJ").ids)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("", "^empty; remove it or add its residues"),
        ("MK-L", "'-' at residue 3 is a gap; remove"),
        ("MK.L", "'.' at residue 3 is a gap; remove"),
        ("MKL*", r"'\*' at residue 4 is a stop; end the sequence before it"),
        ("MK L", "' ' at residue 3 is not a residue letter"),
        ("Mé", "'é' at residue 2 is not"),
        ("M\u0130", "at residue 2 is not"),
    ],
)
def test_what_is_not_a_residue_is_an_error(vocabulary, sequence, message):
    with pytest.raises(InputError, match=message):
        vocabulary.encode(sequence)


def test_special_tokens_are_those_given():
    vocabulary = Vocabulary({"A": 5, "X": 6}, bos=1, eos=2, pad=3)
    assert vocabulary.encode("AW").ids.tolist() == [1, 5, 6, 2]
    assert vocabulary.pad == 3
