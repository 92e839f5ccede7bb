"""One POST over HTTP/1.1 to a configured host, with a deadline for the whole of it and a bound on what comes back.

Python's own timeout is per read, so a server that sends a byte now and then is never late; here a timer cuts the connection. A connection
serves one request, because on a shared one a late reply is read as the reply to the next request. Only http and https, no redirects.
"""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from curation.caption_prompt import Fault, shown

MAX_REPLY_BYTES = 1 << 20
"""Largest reply that is read: an answer has some kilobytes."""

_MAX_RETRY_AFTER_S = 86_400.0  # a server that wants more than a day has its way with this run all the same

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where requests go."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def shows_its_traffic(self) -> bool:
        """Whether others on the network can read what is sent."""
        return self.scheme == "http" and self.host not in _LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply: status, body, and how many seconds its Retry-After asks for (0 without one)."""

    status: int
    body: bytes
    retry_after_s: float


def parse_address(url: str) -> Address:
    """The parts of an http or https URL. Raises ValueError for other schemes and for URLs that carry user, query or fragment."""
    parts = urlsplit(url)  # its own ValueErrors (a bad port or IPv6 address) do not repeat what we were given
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        # The URL is not repeated: what is wrong with it may be that it holds a password.
        raise ValueError("base_url: expected http(s)://host[:port][/path] without user, password, query or fragment")
    return Address(scheme=parts.scheme, host=parts.hostname, port=parts.port, path=parts.path.rstrip("/"))


def post(address: Address, path: str, body: bytes, headers: dict[str, str], timeout_s: float) -> Reply:
    """The reply to one POST, whatever its status. Raises Fault: `timeout`, `unreachable` or `too_large`."""
    late = threading.Event()
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout_s)
    timer: threading.Timer | None = None
    try:
        connection.connect()
        # Kept here, as the connection forgets its socket when the server announces that it will close.
        timer = threading.Timer(timeout_s, _cut, (connection.sock, late))
        timer.daemon = True
        timer.start()
        connection.request("POST", address.path + path, body, headers)
        response = connection.getresponse()
        data = _read(response)
    except (OSError, HTTPException) as e:
        if late.is_set() or isinstance(e, TimeoutError):
            raise Fault("timeout", f"expected a whole reply within {timeout_s:g} s, found none") from e
        raise Fault("unreachable", f"expected a reply from {address.host}, found {type(e).__name__} {shown(str(e))}") from e
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()
    if late.is_set():  # without a length, a reply that was cut looks whole
        raise Fault("timeout", f"expected a whole reply within {timeout_s:g} s, found a part")
    return Reply(status=response.status, body=data, retry_after_s=_seconds(response.getheader("Retry-After")))


def _read(response: HTTPResponse) -> bytes:
    data = response.read(MAX_REPLY_BYTES + 1)
    if len(data) > MAX_REPLY_BYTES:
        raise Fault("too_large", f"expected a reply of at most {MAX_REPLY_BYTES} bytes, found more")
    if response.length:  # read(n) gives what came before the connection broke, without a word
        raise HTTPException(f"{response.length} bytes short")
    return data


def _cut(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):  # it ended in this very moment
        sock.shutdown(socket.SHUT_RDWR)


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header, seconds or a date, as seconds from now, rounded up by what a date leaves out."""
    if not retry_after:
        return 0.0
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(_MAX_RETRY_AFTER_S, float(text[:9]))
    try:
        wanted = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return 0.0
    return min(_MAX_RETRY_AFTER_S, max(0.0, wanted))
