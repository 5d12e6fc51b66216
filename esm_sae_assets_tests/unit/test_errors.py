import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae.errors import InputError, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x.fasta:  two spaces are of its name", "x.fasta:  two spaces are of its name"),
        ("Größe µ 蛋白質", "Größe µ 蛋白質"),
        ("a\nb\r\nc\td\x0be\x85f\u2028g", "a b  c d e f g"),
        ("a\x1b[31mb\x00c\x7fd\x9be", "a?[31mb?c?d?e"),
        ("right\u202eto left, half \ud800 a character", "right?to left, half ? a character"),
    ],
)
def test_what_is_shown_is_one_printable_line(text, shown):
    assert str(InputError(text)) == one_line(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_printable_and_can_be_written(text):
    shown = str(InputError(text))
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert shown.encode().decode() == shown


def test_an_error_of_another_process_says_the_same():
    error = pickle.loads(pickle.dumps(InputError("a\nb")))
    assert (type(error), str(error)) == (InputError, "a b")
