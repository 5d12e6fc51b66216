"""The transfer of one file over HTTP: resumed after breaks, never a mixture of two files."""

import re
from dataclasses import dataclass
from http import HTTPStatus

import httpx

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.progress import LOGGER, progress
from esm_sae.sequences.checksum import Checksum
from esm_sae.sequences.http import (
    Address,
    Attempts,
    RetryPolicy,
    TemporaryFailure,
    get,
    repeat,
    require_identity,
)
from esm_sae.sequences.part_file import Origin, PartFile


class OtherContentError(InputError):
    """What the server sends is not the file that is wanted, as far as that is known."""


@dataclass(frozen=True)
class Wanted:
    """What is known of a file before its transfer.

    Attributes:
        checksum: the hash that it must have, where one is known.
        checksum_from: who says so: ``"given"``, or the path or URL of a metalink.
        size: number of its bytes, where a metalink tells it.
        release: the release that it is of, where a metalink tells it.
        seen: how its server describes it, looked up where no checksum is known.
    """

    checksum: Checksum | None
    checksum_from: str | None = None
    size: int | None = None
    release: str | None = None
    seen: Origin | None = None


@dataclass(frozen=True)
class Fetched:
    """A file that arrived: how its server describes it, and the hash of its bytes."""

    origin: Origin
    sha256: str


def look_up(client: httpx.Client, address: Address, policy: RetryPolicy) -> Origin:
    """Ask a server to describe a file of which no checksum is known.

    Raises:
        InputError: the file cannot be had, or not in a way that tells whether it is whole.
    """

    def look() -> Origin:
        # Not HEAD: some servers refuse it or leave out what they send with a file.
        with get(client, address) as response:
            _require_usable(response, address, None)
            return _describe(response, address, None)

    return repeat(policy, address, look)


class Transfer:
    """Brings one file into a part file."""

    def __init__(
        self,
        client: httpx.Client,
        address: Address,
        wanted: Wanted,
        part: PartFile,
        policy: RetryPolicy,
    ) -> None:
        self._client = client
        self._address = address
        self._wanted = wanted
        self._part = part
        self._policy = policy
        self._in_one_go = False

    def run(self) -> Fetched:
        """Bring the file, going on from the part that is there, and check it.

        Raises:
            OtherContentError: the server has another file than the one wanted.
            InputError: the file cannot be had, or there is no room for it.
        """
        checksum = self._wanted.checksum
        for last in (False, True):
            origin = self._fetch()
            LOGGER.info(f"{self._part.target}: checking {origin.size or self._part.size:,} bytes")
            algorithms = {"sha256"} | ({checksum.algorithm} if checksum else set())
            digests = storage.digests_of(self._part.path, algorithms)
            if checksum is None or digests[checksum.algorithm] == checksum.hexadecimal:
                break
            found = Checksum(checksum.algorithm, digests[checksum.algorithm])
            if self._in_one_go or last:
                raise self._mismatch(found)
            LOGGER.warning(
                f"{self._address.url}: put together from parts it has the checksum {found}, not "
                f"{checksum}; fetching it afresh"
            )
            self._part.discard()
        return Fetched(origin, digests["sha256"])

    def _fetch(self) -> Origin:
        attempts = Attempts(self._policy, self._address)
        while True:
            origin = self._part.origin
            if origin is None or not self._goes_on(origin):
                self._part.discard()
                origin = None
            elif self._part.is_whole(origin):
                return origin
            try:
                return self._request(origin)
            except TemporaryFailure as failure:
                attempts.pause_after(failure, reached=self._part.size)

    def _goes_on(self, origin: Origin) -> bool:
        """Whether a part of ``origin`` can become the wanted file."""
        if not origin.can_go_on or self._part.size > (origin.size or 0):
            return False
        if self._wanted.checksum is None:
            return origin == self._wanted.seen
        wanted = (self._address.url, str(self._wanted.checksum))
        return (origin.url, origin.checksum) == wanted

    def _request(self, origin: Origin | None) -> Origin:
        """Ask for the file, or for what a part of ``origin`` lacks, until all is on disk."""
        start = self._part.size
        headers, accept = {}, {HTTPStatus.OK}
        if origin is not None and start:
            headers = {"Range": f"bytes={start}-"}
            if origin.validator is not None:
                headers["If-Range"] = origin.validator
            accept |= {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
        with get(self._client, self._address, headers=headers, accept=accept) as response:
            if response.status_code == HTTPStatus.OK:
                origin = self._start(response)
            elif origin is None or not _continues(response, origin, start):
                self._part.discard()
                raise TemporaryFailure("the server does not go on with the same file")
            else:
                require_identity(response, self._address)
            self._receive(response, origin)
            self._in_one_go = response.status_code == HTTPStatus.OK
        return origin

    def _start(self, response: httpx.Response) -> Origin:
        """Begin the part anew with the body of a response."""
        wanted = self._wanted
        _require_usable(response, self._address, wanted)
        origin = _describe(response, self._address, wanted)
        announced = _content_length(response)
        if announced not in (None, origin.size):
            raise TemporaryFailure(
                f"the server sends {announced:,} bytes, the file has {origin.size:,} according to "
                f"{wanted.checksum_from}",
                final=OtherContentError,
            )
        if wanted.seen is not None and has_identity(wanted.seen) and origin != wanted.seen:
            raise OtherContentError(
                f"{self._address.url}: its server describes it otherwise from one request to the "
                "next (ETag, Last-Modified, size); try again later, or give its checksum"
            )
        self._part.start(origin)
        return origin

    def _receive(self, response: httpx.Response, origin: Origin) -> None:
        size = self._part.size
        left = None if origin.size is None else origin.size - size
        self._part.require_space(left or 0)
        with (
            progress(
                origin.size,
                unit="bytes",
                description=f"downloading {self._part.target.name}",
                start=size,
            ) as shown,
            self._part.appending(left) as append,
        ):
            for chunk in response.iter_raw():
                size += len(chunk)
                if origin.size is not None and size > origin.size:
                    raise OtherContentError(
                        f"{self._address.url}: the server sends more than the {origin.size:,} "
                        "bytes that the file has; try again later, or use another server"
                    )
                append(chunk)
                shown.update(len(chunk))
        if origin.size is not None and size < origin.size:
            raise TemporaryFailure(f"the server sent {size:,} of {origin.size:,} bytes")

    def _mismatch(self, found: Checksum) -> OtherContentError:
        wanted = self._wanted
        expected = f"{wanted.checksum} is expected"
        if wanted.checksum_from == "given":
            return OtherContentError(
                f"{self._address.url}: has the checksum {found}, but {expected}; check the "
                "checksum that you gave, and whether the file has a new release"
            )
        return OtherContentError(
            f"{self._address.url}: has the checksum {found}, but {expected} according to "
            f"{wanted.checksum_from}; try again later, a release may be under way, or use another "
            "server"
        )


def has_identity(origin: Origin) -> bool:
    """Whether another content of the file would be described otherwise."""
    return bool(origin.etag or origin.last_modified)


def _continues(response: httpx.Response, origin: Origin, start: int) -> bool:
    """Whether the body of a response is what a part of ``origin`` lacks from ``start`` on."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return False
    said = re.fullmatch(
        r"bytes ([0-9]+)-[0-9]+/([0-9]+)", response.headers.get("Content-Range", "").strip()
    )
    if said is None or (int(said[1]), int(said[2])) != (start, origin.size):
        return False
    sent = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    recorded = (origin.etag, origin.last_modified)
    agree = all(new in (None, old) for new, old in zip(sent, recorded, strict=True))
    # What If-Range asked about must be there: a server may pay no heed to it.
    return agree and (origin.validator is None or origin.validator in sent)


def _require_usable(response: httpx.Response, address: Address, wanted: Wanted | None) -> None:
    """Refuse a body that is not the file's bytes, or of which that could not be told."""
    require_identity(response, address)
    if wanted is not None and wanted.checksum is not None:
        return
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "text/html":
        raise InputError(
            f"{address.url}: the server sent a web page, such as a login or an error page; check "
            "the URL, or give the checksum if that page is wanted"
        )
    if _content_length(response) is None and not _is_chunked(response):
        raise InputError(
            f"{address.url}: the server does not tell where the file ends, and no checksum is "
            "known; give its checksum"
        )


def _describe(response: httpx.Response, address: Address, wanted: Wanted | None) -> Origin:
    size = wanted.size if wanted is not None else None
    checksum = wanted.checksum if wanted is not None else None
    headers = response.headers
    return Origin(
        url=address.url,
        checksum=str(checksum) if checksum is not None else None,
        size=size if size is not None else _content_length(response),
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        release=headers.get("X-UniProt-Release"),
    )


def _content_length(response: httpx.Response) -> int | None:
    if _is_chunked(response) or "Content-Length" not in response.headers:
        return None
    return int(response.headers["Content-Length"])


def _is_chunked(response: httpx.Response) -> bool:
    return "chunked" in response.headers.get("Transfer-Encoding", "").lower()
