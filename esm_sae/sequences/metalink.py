"""Metalink files: what a release says of its files' sizes and checksums.

Version 3 (``http://www.metalinker.org/``), as UniProt publishes it in ``RELEASE.metalink``, and
version 4 (RFC 5854). Only what a download needs is read, and the text is not trusted: a document
type, which could define entities, is refused before anything in it is looked at.
"""

from dataclasses import dataclass
from typing import NoReturn
from xml.etree.ElementTree import ParseError, XMLParser

from esm_sae.errors import InputError
from esm_sae.sequences.checksum import ALGORITHMS, Checksum, as_checksum

LARGEST_METALINK = 16 * 2**20

_NAMESPACES = ("{http://www.metalinker.org/}", "{urn:ietf:params:xml:ns:metalink}")
# Version 3 wraps what version 4 has directly below its parent.
_WRAPPERS = ("files", "verification")
_DEEPEST = 5
_STRENGTH = list(ALGORITHMS)


@dataclass(frozen=True)
class Metalink:
    """What a metalink says of a release and of one of its files.

    Attributes:
        release: the version of the release, such as ``2026_05``; None where it tells none.
        checksum: the strongest known hash of the file; None if the file or a hash is not listed.
        size: number of the file's bytes, where it tells them.
    """

    release: str | None
    checksum: Checksum | None
    size: int | None


def parse_metalink(content: bytes, name: str, source: str) -> Metalink:
    """Read what a metalink says of its release and of the file called ``name``.

    Args:
        content: the metalink's bytes.
        name: file name as listed, without a folder.
        source: where the content is from, for messages.

    Raises:
        InputError: it is larger than ``LARGEST_METALINK``, not well-formed XML, no metalink, has a
            document type, or gives the file no sensible size or hash or more than one.
    """
    if len(content) > LARGEST_METALINK:
        raise InputError(f"{source}: has more than {LARGEST_METALINK:,} bytes, no metalink has")
    reader = _Reader(name, source)
    parser = XMLParser(target=reader)
    try:
        parser.feed(content)
        parser.close()
    except InputError:
        raise
    # ValueError and LookupError: encodings that the parser does not know.
    except (ParseError, ValueError, LookupError) as error:
        raise InputError(f"{source}: not a metalink file, its XML is malformed ({error})") from None
    return reader.metalink()


class _Reader:
    """Takes the parser's events one by one, so that a large file makes no large tree."""

    def __init__(self, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._path: list[str] = []
        self._text: list[str] = []
        self._namespace = ""
        self._wanted = False
        self._hash_type = ""
        self._release: str | None = None
        self._file_release: str | None = None
        self._checksums: set[Checksum] = set()
        self._sizes: set[int] = set()

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Refuse a document type, and with it all entities."""
        raise InputError(f"{self._source}: has a document type (DOCTYPE), which is not accepted")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Enter an element."""
        if not self._path:
            self._enter_root(tag)
        self._path.append(tag.removeprefix(self._namespace))
        self._text.clear()
        place = self._place()
        if place == ("metalink", "file"):
            self._wanted = attributes.get("name") == self._name
        elif place == ("metalink", "file", "hash"):
            self._hash_type = attributes.get("type", "")

    def data(self, text: str) -> None:
        """Take a piece of text."""
        self._text.append(text)

    def end(self, tag: str) -> None:
        """Leave an element, whose text is complete now."""
        place, text = self._place(), "".join(self._text).strip()
        self._path.pop()
        self._text.clear()
        if place == ("metalink", "version"):
            self._release = text or None
        elif not self._wanted:
            return
        elif place == ("metalink", "file"):
            self._wanted = False
        elif place == ("metalink", "file", "version"):
            self._file_release = text or None
        elif place == ("metalink", "file", "size"):
            self._sizes.add(self._size(text))
        elif place == ("metalink", "file", "hash"):
            self._add_checksum(text)

    def close(self) -> None:
        """End the document."""

    def metalink(self) -> Metalink:
        """Return what was found."""
        strongest = sorted(self._checksums, key=lambda one: _STRENGTH.index(one.algorithm))
        rivals = [one for one in strongest if one.algorithm == strongest[0].algorithm]
        if len(rivals) > 1 or len(self._sizes) > 1:
            raise InputError(
                f"{self._source}: gives more than one size or hash for {self._name}; give the "
                "checksum yourself"
            )
        return Metalink(
            self._release or self._file_release,
            strongest[0] if strongest else None,
            next(iter(self._sizes), None),
        )

    def _enter_root(self, tag: str) -> None:
        for namespace in _NAMESPACES:
            if tag == f"{namespace}metalink":
                self._namespace = namespace
                return
        raise InputError(f"{self._source}: not a metalink file, its root element is {tag}")

    def _place(self) -> tuple[str, ...]:
        # Deeper ones hold nothing of interest, and their number is not bounded.
        if len(self._path) > _DEEPEST or self._path[-1] in _WRAPPERS:
            return ()
        return tuple(tag for tag in self._path if tag not in _WRAPPERS)

    def _size(self, text: str) -> int:
        # More digits than any file has would be work for int().
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InputError(
                f"{self._source}: the size of {self._name} is '{text[:40]}', expected a number"
            )
        return int(text)

    def _add_checksum(self, text: str) -> None:
        name = self._hash_type.lower().replace("-", "")
        if name not in ALGORITHMS:
            return
        checksum = as_checksum(name, text)
        if checksum is None:
            raise InputError(
                f"{self._source}: '{text[:40]}' is no {name} hash of {self._name}; give the "
                "checksum yourself"
            )
        self._checksums.add(checksum)
