"""HTTP requests that are repeated, with growing pauses, for as long as that may help."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

import httpx

from esm_sae import __version__
from esm_sae.errors import InputError, one_line
from esm_sae.progress import LOGGER
from esm_sae.sequences.netrc_file import credentials_of
from esm_sae.url_secrets import without_secrets

T = TypeVar("T")

_MOST_REDIRECTS = 10
_TEMPORARY_STATUSES = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class RetryPolicy:
    """How failing requests are repeated.

    Attributes:
        failures: failures in a row, without a new byte between them, that are the end.
        requests: failed requests in all that are the end, even if each brought some bytes.
        first_pause: seconds before the second request; each further failure doubles them.
        longest_pause: seconds that this doubling stops at.
        longest_retry_after: seconds that a server's Retry-After is followed for.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds to wait for the next bytes.
        sleep: what pauses.
    """

    failures: int = 7
    requests: int = 200
    first_pause: float = 1.0
    longest_pause: float = 60.0
    longest_retry_after: float = 600.0
    connect_timeout: float = 30.0
    read_timeout: float = 60.0
    sleep: Callable[[float], object] = time.sleep


class TemporaryFailure(Exception):
    """A request failed in a way that the next one may not.

    Attributes:
        pause: seconds that the server asks to wait.
        final: the error to raise when it does not pass.
    """

    def __init__(
        self, reason: str, *, pause: float = 0.0, final: type[InputError] = InputError
    ) -> None:
        super().__init__(one_line(reason))
        self.pause = pause
        self.final = final


@dataclass(frozen=True)
class Address:
    """An HTTP URL, without secrets and as it is asked for.

    Attributes:
        url: the URL as it may be shown and recorded.
        sent: the URL with the tokens and signatures of its query.
        credentials: user name and password, of the URL or of the netrc file.
    """

    url: str
    sent: str = field(repr=False)
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Take a URL apart.

        Raises:
            InputError: it is no URL that HTTP can ask for.
        """
        # What cannot be taken apart is still shown without what may be a password; what httpx says
        # of it quotes the part that it took for a port.
        shown = without_secrets(re.sub(r"(?s)^(.*?://)?.*@", r"\1", text))
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise InputError(f"{shown}: not a URL") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"{shown}: expected a URL that starts with http:// or https://")
        credentials = (url.username, url.password) if url.userinfo else credentials_of(url.host)
        sent = str(url.copy_with(username=None, password=None, fragment=None))
        return cls(without_secrets(sent), sent, credentials)

    @property
    def name(self) -> str:
        """The name of the file, without its folder and query."""
        return httpx.URL(self.url).path.rpartition("/")[2]

    def beside(self, name: str) -> "Address":
        """Return the address of another file of the same folder."""
        url = str(httpx.URL(self.url).join(name))
        return Address(url, url, self.credentials)


class Attempts:
    """Counts the failures of one piece of work and pauses after each."""

    def __init__(self, policy: RetryPolicy, address: Address) -> None:
        self._policy = policy
        self._address = address
        self._in_a_row = 0
        self._in_all = 0
        self._reached = 0

    def pause_after(self, failure: TemporaryFailure, *, reached: int = 0) -> None:
        """Wait before the next attempt.

        Args:
            failure: why the last attempt failed.
            reached: how far the work has come, such as a number of bytes; farther than ever
                before is progress, with which the count of failures starts anew.

        Raises:
            InputError: there were too many failures.
        """
        policy = self._policy
        self._in_a_row = 1 if reached > self._reached else self._in_a_row + 1
        self._reached = max(reached, self._reached)
        self._in_all += 1
        if self._in_a_row >= policy.failures or self._in_all >= policy.requests:
            raise failure.final(
                f"{self._address.url}: {failure}; gave up after {self._in_all} failed attempts, "
                "try again later"
            )
        doubled = min(policy.first_pause * 2 ** (self._in_a_row - 1), policy.longest_pause)
        seconds = max(doubled, min(failure.pause, policy.longest_retry_after))
        LOGGER.info(f"{self._address.url}: {failure}; trying again in {seconds:,.0f} s")
        policy.sleep(seconds)


class _AddressesShown(logging.Filter):
    """Takes secrets out of what httpx logs: each request, and where it was redirected to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass, changed."""
        record.msg, record.args = without_secrets(record.getMessage()), None
        return True


logging.getLogger("httpx").addFilter(_AddressesShown())


def open_client(policy: RetryPolicy) -> httpx.Client:
    """Return a client that follows redirects and asks for bytes as they are stored.

    Raises:
        InputError: the environment names a proxy that cannot be used.
    """
    try:
        return httpx.Client(
            follow_redirects=True,
            max_redirects=_MOST_REDIRECTS,
            timeout=httpx.Timeout(policy.read_timeout, connect=policy.connect_timeout),
            headers={"Accept-Encoding": "identity", "User-Agent": f"esm-sae/{__version__}"},
        )
    except (ImportError, ValueError) as error:
        raise InputError(f"the proxy named in the environment cannot be used ({error})") from None
    except httpx.InvalidURL:
        # What httpx says quotes what may be a part of the password.
        raise InputError("the proxy named in the environment cannot be used: not a URL") from None


@contextlib.contextmanager
def get(
    client: httpx.Client,
    address: Address,
    *,
    headers: Mapping[str, str] | None = None,
    accept: Collection[int] = (HTTPStatus.OK,),
) -> Iterator[httpx.Response]:
    """Ask for a file; the body of the ``with`` reads as much of the response as it wants.

    Raises:
        TemporaryFailure: no connection, a broken or stalled one, or a status that may pass.
        InputError: any other status that is not in ``accept``, or redirects that lead nowhere.
    """
    try:
        with client.stream(
            "GET", address.sent, headers=headers, auth=address.credentials
        ) as response:
            _require_status(response, address, accept)
            yield response
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol) as error:
        raise InputError(f"{address.url}: cannot be reached ({error})") from None
    except httpx.TransportError as error:
        raise TemporaryFailure(f"{type(error).__name__} ({error})") from error
    except UnicodeError as error:
        # What the resolver of host names makes of an impossible one, such as a..b.
        raise InputError(f"{address.url}: not a host that can be asked ({error})") from None


def repeat(policy: RetryPolicy, address: Address, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, repeating it while its failures may pass."""
    attempts = Attempts(policy, address)
    while True:
        try:
            return work()
        except TemporaryFailure as failure:
            attempts.pause_after(failure)


def require_identity(response: httpx.Response, address: Address) -> None:
    """Refuse a body that is encoded: its bytes are not those of the file.

    Raises:
        InputError: there is a Content-Encoding.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise InputError(
            f"{address.url}: sent with Content-Encoding '{encoding}', although the stored bytes "
            "were asked for; use another server"
        )


def _require_status(response: httpx.Response, address: Address, accept: Collection[int]) -> None:
    status = response.status_code
    if status in accept:
        return
    answer = f"the server answered {status} {response.reason_phrase}".rstrip()
    if status in _TEMPORARY_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TemporaryFailure(answer, pause=_retry_after(response))
    raise InputError(f"{address.url}: {answer}; check the URL")


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]+", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
