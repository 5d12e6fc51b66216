"""An HTTP server on 127.0.0.1 that serves bytes from memory and misbehaves as it is told."""

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LONG_AGO = "Mon, 05 Jan 2026 10:00:00 GMT"


@dataclass(frozen=True)
class File:
    """A file on the server."""

    content: bytes = field(repr=False)
    etag: str | None = '"one"'
    last_modified: str | None = LONG_AGO
    release: str | None = None
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, repr=False)
class Fault:
    """What goes wrong with one response; nothing does by default.

    Attributes:
        status: answer with this status and no file.
        reason: the phrase that goes with the status.
        headers: further headers.
        drop_after: close the connection after this many bytes of the body.
        reset: close it with a reset.
        truncate_to: send this many bytes at most, with a Content-Length that fits.
        ignore_range: send the whole file, whatever is asked for.
        ignore_if_range: send the range, whatever the file is now.
        shift: send a range that starts this many bytes later, and say so.
        lie: say that the range starts where it should, with ``shift``.
        total: the size that Content-Range tells.
        file: serve this file instead.
        validators: whether to send ETag and Last-Modified.
        chunked: send the body in chunks, without a length.
        unframed: send neither a length nor chunks: the body ends with the connection.
        encoding: say that the body has this Content-Encoding.
        pause: seconds between pieces of the body of ``piece`` bytes.
        stall: send half of the body, then nothing until the server stops.
    """

    status: int | None = None
    reason: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    reset: bool = False
    truncate_to: int | None = None
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift: int = 0
    lie: bool = False
    total: int | str | None = None
    file: File | None = None
    validators: bool = True
    chunked: bool = False
    unframed: bool = False
    encoding: str | None = None
    pause: float = 0.0
    piece: int = 1 << 16
    stall: bool = False

    def __repr__(self) -> str:
        changed = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) not in (one.default, {})
        }
        return f"Fault({', '.join(f'{name}={value}' for name, value in changed.items())})"


@dataclass
class Request:
    """A request that the server saw, and how it answered."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class MisbehavingServer(ThreadingHTTPServer):
    """Serves ``files`` by path; each request to a path uses up the next of its ``faults``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}
        self.faults: dict[str, deque[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Forget all files, faults and requests."""
        self.files, self.faults, self.always, self.requests = {}, {}, {}, []

    def url(self, path: str = "/rel/x.gz") -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def fail(self, *faults: Fault, path: str = "/rel/x.gz") -> None:
        """Let the next requests to a path go wrong."""
        self.faults.setdefault(path, deque()).extend(faults)

    def seen(self, path: str = "/rel/x.gz") -> list[Request]:
        """Return the requests to a path so far."""
        return [request for request in self.requests if request.path == path]

    def stop(self) -> None:
        """End all that still runs and free the port."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take it as usual that clients leave in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MisbehavingServer

    def do_GET(self) -> None:
        """Answer a request for a file."""
        server = self.server
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
        server.requests.append(request)
        faults = server.faults.get(self.path)
        fault = faults.popleft() if faults else server.always.get(self.path, Fault())
        file = fault.file or server.files.get(self.path)
        status = fault.status if fault.status is not None else (200 if file else 404)
        if status != 200 or file is None:
            request.status = status
            self._send_headers(status, {"Content-Length": "0"} | fault.headers, fault.reason)
            return
        request.status, headers, body = self._answer(file, fault)
        self._send_headers(request.status, headers | fault.headers)
        self._send_body(body, fault, request)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def _answer(self, file: File, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        status, body, total = 200, file.content, len(file.content)
        headers = {"Content-Type": file.content_type}
        validators = {"ETag": file.etag, "Last-Modified": file.last_modified}
        if fault.validators:
            headers |= {name: value for name, value in validators.items() if value is not None}
        if file.release is not None:
            headers["X-UniProt-Release"] = file.release
        if fault.encoding is not None:
            headers["Content-Encoding"] = fault.encoding
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        unchanged = condition is None or condition in validators.values()
        if wanted and not fault.ignore_range and (unchanged or fault.ignore_if_range):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                return 416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"}, b""
            body = body[start + fault.shift :]
            said = start if fault.lie else start + fault.shift
            headers["Content-Range"] = (
                f"bytes {said}-{said + len(body) - 1}/"
                f"{total if fault.total is None else fault.total}"
            )
            status = 206
        if fault.truncate_to is not None:
            body = body[: fault.truncate_to]
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif fault.unframed:
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(len(body))
        return status, headers, body

    def _send_headers(
        self, status: int, headers: dict[str, str], reason: str | None = None
    ) -> None:
        self.send_response(status, reason)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, body: bytes, fault: Fault, request: Request) -> None:
        cut = len(body) // 2 if fault.stall else fault.drop_after
        for piece in _pieces(body[:cut], fault.piece):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if fault.chunked else piece)
            request.sent += len(piece)
            if fault.pause:
                time.sleep(fault.pause)
        if fault.stall:
            self.server.stopping.wait()
        if fault.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if fault.stall or cut is not None or fault.unframed:
            self.close_connection = True
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")


def _pieces(body: bytes, size: int) -> Iterable[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))
