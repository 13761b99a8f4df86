"""Files from web servers, politely: a limit on requests a second, back-off when a server asks for it, an end to all."""

import http.client
import threading
import time
import urllib.error
import urllib.request
import zlib
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import count

RETRIED = {408, 425, 429, 500, 502, 503, 504}
LONGEST_PAUSE = 600  # seconds, whatever Retry-After says
LARGEST = 1 << 28  # bytes of a file, before and after unpacking


class FetchError(Exception):
    """A file that could not be had, and why; whether to try `again`, and seconds for which to ask for no file."""

    def __init__(self, reason: str, again: bool = True, pause: float = 0.0):
        super().__init__(reason)
        self.again, self.pause = again, pause


class Stopped(Exception):
    """The run is over, this file is not wanted any more."""


class Pace:
    """When the next request may start, for all threads of a run together."""

    def __init__(self, per_second: float):
        self.gap = 1 / per_second
        self.next = self.paused_until = 0.0
        self.lock = threading.Lock()
        self.stopped = threading.Event()

    def wait(self) -> None:
        """Wait for this thread's turn; Stopped when the run ends."""
        start = -1.0
        while start < self.paused_until:  # a pause that began while this thread waited takes its turn away
            with self.lock:
                start = max(time.monotonic(), self.next)
                self.next = start + self.gap
            self.sleep(max(0.0, start - time.monotonic()))

    def sleep(self, seconds: float) -> None:
        """Wait; Stopped when the run ends."""
        if self.stopped.wait(min(seconds, LONGEST_PAUSE)):
            raise Stopped

    def pause(self, seconds: float) -> None:
        """No request is to start before `seconds` have passed."""
        with self.lock:
            self.paused_until = max(self.paused_until, time.monotonic() + min(seconds, LONGEST_PAUSE))
            self.next = max(self.next, self.paused_until)


class Fetcher:
    """Gets files over http and https; may be called by many threads.

    per_second: requests started a second, in all. timeout: seconds for a file, and for a server to say anything.
    retries: further tries of a file after an answer that may change, `wait` seconds later, twice as many each time; a
    server that says when (Retry-After) or is overloaded (429, 503) is left alone by all threads for that long.
    """

    def __init__(self, per_second: float, timeout: float, retries: int, wait: float, agent: str):
        self.pace = Pace(per_second)
        self.timeout, self.retries, self.backoff = timeout, retries, wait
        self.opener = urllib.request.OpenerDirector()  # without the handlers of file:, ftp: and data:
        self.opener.addheaders = [("User-Agent", agent)]
        for handler in (
            urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler,
        ):  # fmt: skip
            self.opener.add_handler(handler())

    def get(self, address: str) -> bytes:
        """The content of the file at `address`, whole. FetchError with the last reason when it cannot be had."""
        for attempt in count():
            self.pace.wait()
            try:
                return self._ask(address)
            except FetchError as error:
                self.pace.pause(error.pause)
                if not error.again or attempt == self.retries:
                    raise
            self.pace.sleep(self.backoff * 2**attempt)

    def _ask(self, address: str) -> bytes:
        try:
            with self.opener.open(address, timeout=self.timeout) as answer:
                return self._receive(answer)
        except urllib.error.HTTPError as error:
            error.close()
            busy = error.code in (429, 503)
            pause = max(self.backoff, retry_after(error.headers.get("Retry-After", ""))) if busy else 0.0
            raise FetchError(f"{error.code} {error.reason}", error.code in RETRIED, pause) from None
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(str(getattr(error, "reason", error)) or type(error).__name__) from None
        except ValueError as error:  # an address that is none, of a table or of a redirect
            raise FetchError(f"no address to ask: {error}", again=False) from None

    def _receive(self, answer: http.client.HTTPResponse) -> bytes:
        end, content = time.monotonic() + self.timeout, bytearray()
        while part := answer.read1(1 << 20):
            content += part
            if len(content) > LARGEST:
                raise FetchError(f"longer than {LARGEST} bytes", again=False)
            if time.monotonic() > end:
                raise FetchError(f"not whole after {self.timeout:g} s")
            self.pace.sleep(0)
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and len(content) != int(length):
            raise FetchError(f"cut off after {len(content)} of {length} bytes")
        return bytes(content)


def retry_after(text: str) -> float:
    """The seconds that a Retry-After header asks for, as a number or a date; 0 when it says neither.

    >>> retry_after("120"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (120.0, 0.0, 0.0)
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def gunzip(data: bytes) -> bytes:
    """A gzip file's content. FetchError when it is none, is cut off or damaged, or unpacks to more than LARGEST."""
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unpack.decompress(data, LARGEST)
    except zlib.error as error:
        raise FetchError(f"not a whole gzip file ({error})") from None
    if unpack.unconsumed_tail:
        raise FetchError(f"unpacks to more than {LARGEST} bytes")
    if not unpack.eof:
        raise FetchError("a gzip file that is cut off")
    return content
