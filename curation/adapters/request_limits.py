"""What keeps a captioner from asking too much: a budget, a pace that heeds Retry-After, and giving up on a dead endpoint.

A budget counts every request, and tokens as the endpoint reports them; before a request goes out its worst case is set aside, so that
requests in flight cannot overdraw. Where the endpoint reports nothing, the worst case stays spent. All three are shared by the threads of
one captioner.
"""

import threading
import time
from dataclasses import dataclass

from curation.caption_prompt import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard an endpoint is driven and what it may cost, by one worker. None of it decides what a caption says."""

    concurrency: int = 4  # requests in flight
    timeout_s: float = 120.0  # for one request as a whole; a large model on four pictures takes some ten seconds
    attempts: int = 4  # requests for one clip at most
    backoff_s: float = 1.0  # pause before the second attempt; doubles from one to the next, times 0.5 to 1.5 by key
    max_wait_s: float = 60.0  # an endpoint that wants a longer pause has failed the clip
    give_up_after: int = 8  # clips in a row without any answer, after which the rest of the batch is not tried
    max_requests: int = 100_000  # the budget, for as long as the captioner lives
    max_tokens: int = 500_000_000  # 5000 a request: four pictures and an answer

    def __post_init__(self) -> None:
        if min(self.concurrency, self.attempts, self.give_up_after) < 1 or self.timeout_s <= 0:
            raise ValueError("concurrency, attempts and give_up_after must be at least 1, timeout_s more than 0")
        if min(self.backoff_s, self.max_wait_s, self.max_requests, self.max_tokens) < 0:
            raise ValueError("backoff_s, max_wait_s, max_requests and max_tokens must not be negative")


class Budget:
    """Counts requests and tokens against limits; safe to share between threads."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._lock = threading.Lock()
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self.requests = 0
        self.tokens = 0

    def take(self, tokens: int) -> None:
        """One more request is counted and its tokens are set aside. Raises Fault `budget`, and takes nothing, where that is too much."""
        with self._lock:
            if self.requests + 1 > self._max_requests:
                raise Fault("budget", f"expected at most {self._max_requests} requests, and all are spent")
            if self.tokens + tokens > self._max_tokens:
                raise Fault(
                    "budget", f"expected at most {self._max_tokens} tokens, found {self.tokens} spent or set aside and {tokens} wanted"
                )
            self.requests += 1
            self.tokens += tokens

    def settle(self, reserved: int, spent: int) -> None:
        """What was set aside is replaced by what was spent."""
        with self._lock:
            self.tokens += spent - reserved


class Pace:
    """When the next request may go out: an endpoint that says when to come back says it to all threads."""

    def __init__(self, max_wait_s: float) -> None:
        self._lock = threading.Lock()
        self._max_wait_s = max_wait_s
        self._not_before = 0.0

    def hold(self, seconds: float) -> None:
        """No request goes out for so many seconds from now."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def wait(self, pause_s: float) -> None:
        """Returns after the pause and not before the endpoint's time has come. Raises Fault where that is too far away."""
        until = time.monotonic() + min(pause_s, self._max_wait_s)
        while True:
            with self._lock:
                left = max(until, self._not_before) - time.monotonic()
            if left <= 0:
                return
            if left > self._max_wait_s:
                raise Fault(
                    "http_429", f"expected a pause of at most {self._max_wait_s:g} s, found that the endpoint wants {left:.0f} s more"
                )
            time.sleep(left)


class Streak:
    """Clips in a row, in one batch, that got no answer of any kind: with a wrong key or a dead server, the rest would only wait."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._failed = 0
        self._last: Fault | None = None

    def check(self) -> None:
        """Raises Fault `given_up` where it has come to the limit."""
        if self._failed >= self._limit and self._last is not None:
            raise Fault("given_up", f"expected an answer from the endpoint, found none for {self._limit} clips in a row: {self._last}")

    def count(self, fault: Fault) -> None:
        """One more clip has failed; a bad answer is an answer, and ends the row."""
        if not _is_transport(fault.code):
            self.broken()
            return
        with self._lock:
            self._failed, self._last = self._failed + 1, fault

    def broken(self) -> None:
        """A clip got an answer."""
        with self._lock:
            self._failed = 0


def _is_transport(code: str) -> bool:
    return code in ("timeout", "unreachable", "too_large") or code.startswith("http_")
