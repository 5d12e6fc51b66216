"""JSON objects of lists, ``{name: [entry, ...]}``, read and written entry by entry."""

import codecs
import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from esm_sae import storage
from esm_sae.errors import InputError

_CHUNK_BYTES = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)
# A number, a literal or an escape that the end of what was read cuts off is complained of at most
# so far before that end.
_LONGEST_CUT = 16
# What may be left of such at the end of a file.
_START_OF_TOKEN = re.compile(r"[-+.\\0-9A-Za-z]*\s*")
_NAME_SHOWN = 60


def read_entries(path: storage.PathLike) -> Iterator[tuple[str, int, Any]]:
    """Yield ``(name, number from 1, entry)`` of a JSON object of lists, in the file's order.

    Memory is bounded by a few MiB, the names, and the longest entry where that is longer; how
    long a list is does not matter. Each entry is read by the parser of the standard library.

    Raises:
        InputError: the file is missing, is cut off, is not JSON in UTF-8 or is of another shape,
            a name is there twice (one of the two would be lost), or text holds half a character.
            The cluster and the entry are named.
    """
    names: set[str] = set()
    with storage.open_binary(path) as file:
        text = _Text(file, path)
        if text.peek() not in ("{", ""):
            raise InputError(
                f"{os.fspath(path)}: expected an object of clusters, found another shape"
            )
        for _ in text.items("{", "}"):
            name = text.value()
            if not isinstance(name, str):
                raise text.invalid("a name is not text")
            text.where = f"in {_cluster(name)}"
            text.take(":")
            if name in names:
                raise InputError(
                    f"{os.fspath(path)}: {_cluster(name)} is there twice; join the two, or give "
                    "one another name"
                )
            names.add(name)
            if text.peek() not in ("[", ""):
                raise InputError(f"{os.fspath(path)}: {_cluster(name)} is not a list")
            for number, _ in enumerate(text.items("[", "]"), start=1):
                text.where = f"in {entry_of(name, number)}"
                yield name, number, text.value()
            text.where = f"behind {_cluster(name)}"
        if text.peek():
            raise text.invalid("there is more behind its end")
    if not names:
        raise InputError(f"{os.fspath(path)}: holds no cluster")


def entry_of(name: str, number: int) -> str:
    """Return how an entry is called in errors."""
    return f"entry {number} of {_cluster(name)}"


class EntryWriter:
    """Writes ``{name: [entry, ...]}`` into a file; the entries of a name come in one run.

    The bytes are those that ``json.dumps`` gives of the whole, with ``ensure_ascii`` off and a
    line end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._name: str | None = None
        self._is_first = True
        file.write(b"{")

    def add(self, name: str, entries: Sequence[bytes]) -> None:
        """Write entries, each of them JSON, of the last name on or of a new one."""
        if name != self._name:
            self._file.write(b"" if self._name is None else b"], ")
            self._file.write(encode_json(name) + b": [")
            self._name, self._is_first = name, True
        if entries:
            self._file.write(b"" if self._is_first else b", ")
            self._file.write(b", ".join(entries))
            self._is_first = False

    def finish(self) -> None:
        """Write what closes the object."""
        self._file.write(b"}\n" if self._name is None else b"]}\n")


@contextlib.contextmanager
def entry_writer(path: Path) -> Iterator[EntryWriter]:
    """Write an object of lists as a file, with no more in memory than is added at once."""
    with path.open("wb") as file:
        writer = EntryWriter(file)
        yield writer
        writer.finish()


def encode_json(value: Any) -> bytes:
    """Encode a value as the JSON of one line, in its own order; NaN and infinity are errors."""
    return _ENCODER.encode(value).encode()


class _Text:
    """The text of a JSON file, of which a part at a time is in memory.

    Attributes:
        where: where the reading stands, for errors.
    """

    def __init__(self, file: BinaryIO, path: storage.PathLike) -> None:
        self.where = "at its beginning"
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not white space, nothing at the end of the file."""
        while True:
            # The expression matches anywhere, be it nothing.
            self._at = cast(re.Match[str], _SPACE.match(self._text, self._at)).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def take(self, mark: str) -> None:
        """Go behind a mark, which must be what comes next."""
        found = self.peek()
        if not found:
            raise self._cut()
        if found != mark:
            raise self.invalid(f"expected '{mark}', found '{found}'")
        self._at += 1

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each item between two brackets; the caller takes it."""
        self.take(opening)
        if self.peek() == closing:
            self.take(closing)
            return
        yield
        while self.peek() != closing:
            self.take(",")
            yield
        self.take(closing)

    def value(self) -> Any:
        """Take the next value."""
        if not self.peek():
            raise self._cut()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_be_cut(error):
                    raise self.invalid(error.msg) from None
                if not self._read_on():
                    raise self._cut() if self._is_cut(error) else self.invalid(error.msg) from None
            # A number with thousands of digits, or too many brackets.
            except (ValueError, RecursionError) as error:
                raise self.invalid(str(error)) from None
            else:
                is_closed = self._text[end - 1] in '"]}'
                # A number may go on in what is not read yet.
                if is_closed or end <= len(self._text) - _LONGEST_CUT or not self._read_on():
                    break
        if self._text.find("\\u", self._at, end) >= 0:
            self._require_whole_characters(value)
        self._at = end
        return value

    def invalid(self, reason: str) -> InputError:
        """Return the error of a place that is not JSON."""
        return InputError(f"{os.fspath(self._path)}: not valid JSON {self.where} ({reason})")

    def _cut(self) -> InputError:
        return InputError(
            f"{os.fspath(self._path)}: not valid JSON, it breaks off {self.where}; copy it or "
            "make it again"
        )

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        if error.msg.startswith("Unterminated string"):
            return True
        return error.pos > len(self._text) - _LONGEST_CUT

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether what the parser complains of at the end of the file is that end."""
        if error.msg.startswith("Unterminated string"):
            return True
        return _START_OF_TOKEN.fullmatch(self._text, error.pos) is not None

    def _require_whole_characters(self, value: Any) -> None:
        # An escape can spell half a character, which nothing made from it could write.
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise self.invalid("an escape spells half a character") from None

    def _read_on(self) -> bool:
        """Read the next part of the file behind what is not taken yet; false at its end."""
        if self._ended:
            return False
        waiting = self._text[self._at :]
        # As much again as is waiting: a long entry is tried some few times, not once a chunk.
        chunk = self._file.read(max(_CHUNK_BYTES, len(waiting)))
        self._ended = not chunk
        try:
            self._text = waiting + self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError:
            error = self._cut() if self._ended else self.invalid("this is not text in UTF-8")
            raise error from None
        self._at = 0
        return True


def _cluster(name: str) -> str:
    shown = name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "..."
    return f"cluster '{shown}'"
