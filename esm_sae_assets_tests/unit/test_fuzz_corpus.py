"""What fuzzing has found is checked again, without a fuzzer."""

import importlib.util
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"


def load_checks():
    spec = importlib.util.spec_from_file_location("fuzz_sequences", FUZZ / "fuzz_sequences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CHECKS


CHECKS = load_checks()


@pytest.mark.parametrize("subject", sorted(CHECKS))
def test_inputs_that_fuzzing_found(subject):
    inputs = sorted((FUZZ / "corpus" / subject).iterdir())
    assert inputs
    for path in inputs:
        CHECKS[subject](path.read_bytes())
