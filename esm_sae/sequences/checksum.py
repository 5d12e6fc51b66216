"""Checksums of files as people write them: an algorithm and a hexadecimal hash."""

import re
from dataclasses import dataclass

from esm_sae.errors import InputError

# The number of hexadecimal digits of each, the strongest first.
ALGORITHMS = {"sha512": 128, "sha256": 64, "sha1": 40, "md5": 32}


@dataclass(frozen=True)
class Checksum:
    """A hash that a file should have.

    Attributes:
        algorithm: one of ``ALGORITHMS``.
        hexadecimal: the hash in lower case.
    """

    algorithm: str
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexadecimal}"


def parse_checksum(text: str) -> Checksum:
    """Parse ``algorithm:hash``, such as ``sha256:9f86d08...``.

    Raises:
        InputError: the algorithm is not one of ``ALGORITHMS``, or the hash does not fit it.
    """
    algorithm, _, hexadecimal = text.partition(":")
    checksum = as_checksum(algorithm, hexadecimal)
    if checksum is None:
        raise InputError(
            f"checksum '{text}': expected one of {', '.join(ALGORITHMS)}, a colon and the "
            "hexadecimal hash, such as sha256:9f86d08..."
        )
    return checksum


def as_checksum(algorithm: str, hexadecimal: str) -> Checksum | None:
    """Return a checksum given its two parts, with SHA-256 for sha256 too; None if it is none."""
    name = algorithm.strip().lower().replace("-", "")
    digits = hexadecimal.strip().lower()
    if name not in ALGORITHMS or not re.fullmatch(f"[0-9a-f]{{{ALGORITHMS[name]}}}", digits):
        return None
    return Checksum(name, digits)
