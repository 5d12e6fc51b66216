"""Downloads of large files over HTTP: verified, resumable, published when they are complete."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import Product, manifest_beside, produce_files
from esm_sae.progress import LOGGER
from esm_sae.sequences.checksum import Checksum, parse_checksum
from esm_sae.sequences.http import (
    Address,
    RetryPolicy,
    get,
    open_client,
    repeat,
    require_identity,
)
from esm_sae.sequences.metalink import LARGEST_METALINK, Metalink, parse_metalink
from esm_sae.sequences.part_file import PartFile
from esm_sae.sequences.transfer import (
    Fetched,
    OtherContentError,
    Transfer,
    Wanted,
    has_identity,
    look_up,
)

_GIVEN = "given"
_RELEASE_METALINK = "RELEASE.metalink"
_MISSING = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_DEFAULT_RETRY = RetryPolicy()


def download(
    url: str,
    target: storage.PathLike,
    *,
    checksum: str | None = None,
    metalink: storage.PathLike | None = None,
    check: Callable[[Path], None] | None = None,
    retry: RetryPolicy = _DEFAULT_RETRY,
) -> Product:
    """Bring the file at an HTTP(S) URL to ``target``, or find that it is there already.

    The bytes arrive in a hidden part file beside ``target``, from which a later call goes on
    after a break or a kill. ``target`` is replaced once they are complete and verified; beside it
    comes ``<target>.manifest.json``, whose summary tells ``url``, ``bytes``, ``sha256``,
    ``verified``, ``checksum``, ``checksum_from``, ``release``, ``etag`` and ``last_modified``.

    The checksum is ``checksum`` (``sha256:``, ``md5:``, ``sha1:`` or ``sha512:`` and the
    hexadecimal hash), else what the metalink file at ``metalink``, a URL or a path, says of the
    file, else what ``RELEASE.metalink`` in the folder of ``url`` says. Where there is no such
    file, or it is refused and ``url`` has a token or signature, none is known: then the server's
    description (ETag, Last-Modified, size) identifies the content, or the content itself where
    there is neither, and nothing verifies it.

    Args:
        url: address of the file; a user name and password in it, and tokens and signatures in its
            query, are used and never recorded. A password also comes from the netrc file.
        target: local path of the file to write.
        checksum: hash that the file must have; ``metalink`` then only names the release.
        metalink: URL or path of a metalink file, version 3 or 4, that lists the file.
        check: called with the path of the complete file just before it becomes ``target``; by
            raising ``InputError`` it refuses the file.
        retry: how failing requests are repeated.

    Raises:
        InputError: the file or a metalink cannot be had or is not usable, the file's hash is
            another, or the disk has no room for it. An older ``target`` is as it was.
    """
    storage.require_writable_file(Path(target))
    return _Download(_Asked.of(url, checksum, metalink, retry), Path(target), check).run()


def what_is_at(
    url: str,
    *,
    checksum: str | None = None,
    metalink: storage.PathLike | None = None,
    retry: RetryPolicy = _DEFAULT_RETRY,
) -> dict[str, Any] | None:
    """Ask what identifies the file at an HTTP(S) URL at present; its bytes stay there.

    Args:
        url: as ``download``.
        checksum: as ``download``.
        metalink: as ``download``.
        retry: how failing requests are repeated.

    Returns:
        ``release`` where it is known, and what ``download`` would identify the content by: its
        ``checksum``, or its ``etag``, ``last_modified`` and ``bytes``. None where nothing does.

    Raises:
        InputError: the file or a metalink cannot be had.
    """
    with open_client(retry) as client:
        wanted = _Asked.of(url, checksum, metalink, retry).look_up(client)
    content = _content(wanted)
    release = wanted.release or (wanted.seen.release if wanted.seen else None)
    return {"release": release} | content if content else None


@dataclass(frozen=True)
class _Asked:
    """The file asked for: its address, and who says what it should be."""

    address: Address
    given: Checksum | None
    metalink: "_MetalinkFile | None"
    retry: RetryPolicy

    @classmethod
    def of(
        cls, url: str, checksum: str | None, metalink: storage.PathLike | None, retry: RetryPolicy
    ) -> "_Asked":
        return cls(
            Address.parse(url),
            parse_checksum(checksum) if checksum is not None else None,
            _MetalinkFile.of(metalink) if metalink is not None else None,
            retry,
        )

    def look_up(self, client: httpx.Client) -> Wanted:
        """Find out what the file should be."""
        name = self.address.name
        if self.given is not None:
            read = self.metalink.read(client, self.retry, name) if self.metalink else None
            return Wanted(self.given, _GIVEN, release=read.release if read else None)
        metalink = self.metalink or _MetalinkFile(
            self.address.beside(_RELEASE_METALINK),
            # It is asked for without the token or signature, which is good for the file only.
            missing=_MISSING | (_REFUSED if self.address.sent != self.address.url else set()),
        )
        read = metalink.read(client, self.retry, name)
        if read is not None:
            if read.checksum is None:
                raise InputError(
                    f"{metalink.shown}: lists no file {name} with a hash of a known kind; give "
                    "its checksum, or another metalink"
                )
            return Wanted(read.checksum, metalink.shown, read.size, read.release)
        LOGGER.warning(
            f"{self.address.url}: will not be verified: no checksum was given, and no "
            f"{_RELEASE_METALINK} can be had beside it"
        )
        return Wanted(None, seen=look_up(client, self.address, self.retry))


class _Download:
    def __init__(self, asked: _Asked, target: Path, check: Callable[[Path], None] | None) -> None:
        self._asked = asked
        self._address = asked.address
        self._retry = asked.retry
        self._check = check
        self._target = target
        self._part = PartFile(target)

    def run(self) -> Product:
        # The lock is the part file's: produce_files has its own on the target. Whoever waits here
        # looks up the checksum afterwards, and so finds what the one before made.
        with storage.locked(self._part.path), open_client(self._retry) as client:
            product = self._produce_wanted(client)
            self._part.discard()
        return product

    def _produce_wanted(self, client: httpx.Client) -> Product:
        wanted = self._asked.look_up(client)
        try:
            return self._produce(client, wanted)
        except OtherContentError:
            newer = self._look_up_again(client, wanted)
            if newer is None:
                self._part.discard()
                raise
        try:
            return self._produce(client, newer)
        except OtherContentError:
            self._part.discard()
            raise

    def _look_up_again(self, client: httpx.Client, wanted: Wanted) -> Wanted | None:
        """Find out what the file should be by now, after something else came.

        None if nothing is new, or if there is no checksum any more where there was one.
        """
        if self._asked.given is not None:
            return None
        newer = self._asked.look_up(client)
        if _content(newer) == _content(wanted) or (wanted.checksum and not newer.checksum):
            return None
        origin = self._part.origin
        if origin is not None and newer.checksum is not None:
            # What came may be the new release already.
            self._part.describe(replace(origin, checksum=str(newer.checksum)))
        return newer

    def _produce(self, client: httpx.Client, wanted: Wanted) -> Product:
        transfer = Transfer(client, self._address, wanted, self._part, self._retry)
        content, arrived = _content(wanted), None
        if content is None:
            arrived = transfer.run()
            content = {"sha256": arrived.sha256}

        def build(paths: list[Path]) -> dict[str, Any]:
            fetched = arrived or transfer.run()
            self._require_accepted()
            self._part.place_at(paths[0])
            return _summary(wanted, fetched, paths[0].stat().st_size)

        return produce_files(
            [self._target],
            manifest=manifest_beside(self._target),
            kind="download",
            determinants={"url": self._address.url, **content},
            build=build,
        )

    def _require_accepted(self) -> None:
        if self._check is None:
            return
        try:
            self._check(self._part.path)
        except InputError:
            self._part.discard()
            raise


@dataclass(frozen=True)
class _MetalinkFile:
    """Where a metalink is, and which answers mean that there is none; by default it must be."""

    place: Address | Path
    missing: frozenset[int] = frozenset()

    @classmethod
    def of(cls, place: storage.PathLike) -> "_MetalinkFile":
        return cls(Address.parse(str(place)) if storage.is_url(place) else Path(place))

    @property
    def shown(self) -> str:
        """The place as it may be shown."""
        return self.place.url if isinstance(self.place, Address) else str(self.place)

    def read(self, client: httpx.Client, retry: RetryPolicy, name: str) -> Metalink | None:
        """Read what it says of a file; None if there is none and need not be."""
        # One byte more than is accepted shows that there is too much.
        limit = LARGEST_METALINK + 1
        if isinstance(self.place, Address):
            content = self._fetch(client, retry, self.place, limit)
        else:
            with storage.open_binary(self.place) as file:
                content = file.read(limit)
        return parse_metalink(content, name, self.shown) if content is not None else None

    def _fetch(
        self, client: httpx.Client, retry: RetryPolicy, address: Address, limit: int
    ) -> bytes | None:
        def fetch() -> bytes | None:
            with get(client, address, accept={HTTPStatus.OK, *self.missing}) as response:
                if response.status_code != HTTPStatus.OK:
                    return None
                require_identity(response, address)
                content = bytearray()
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) >= limit:
                        break
                return bytes(content)

        return repeat(retry, address, fetch)


def _content(wanted: Wanted) -> dict[str, Any] | None:
    """What identifies the wanted content; None where nothing does beforehand."""
    if wanted.checksum is not None:
        return {"checksum": str(wanted.checksum)}
    if wanted.seen is None or not has_identity(wanted.seen):
        return None
    seen = wanted.seen
    return {"etag": seen.etag, "last_modified": seen.last_modified, "bytes": seen.size}


def _summary(wanted: Wanted, fetched: Fetched, size: int) -> dict[str, Any]:
    return {
        "url": fetched.origin.url,
        "bytes": size,
        "sha256": fetched.sha256,
        "verified": wanted.checksum is not None,
        "checksum": str(wanted.checksum) if wanted.checksum is not None else None,
        "checksum_from": wanted.checksum_from,
        "release": wanted.release or fetched.origin.release,
        "etag": fetched.origin.etag,
        "last_modified": fetched.origin.last_modified,
    }
