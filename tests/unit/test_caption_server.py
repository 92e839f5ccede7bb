"""Captions from an endpoint, against a real HTTP server on 127.0.0.1: never on a wrong clip, whatever the server does."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from curation.adapters import http_post
from curation.adapters.openai_captioner import EndpointConfig, KeyMissing
from curation.adapters.request_limits import Limits
from curation.caption_facts import SidecarConfig
from curation.captions import CaptionClips, CaptionConfig, CaptionText, is_transient
from tests.caption_server import FINE, TOKENS, Asked, CaptionServer, Item, make_items, misbehave, wrong_rows

LIMITS = Limits(concurrency=4, timeout_s=10.0, attempts=3, backoff_s=0.005, max_wait_s=2.0, give_up_after=1000)
KEY = "sk-0123456789abcdef"


def _config(server: CaptionServer, limits: Limits = LIMITS, **endpoint: Any) -> CaptionConfig:
    small = EndpointConfig(base_url=server.url, model="tiny-vl", limits=limits, **endpoint)
    return CaptionConfig(sidecar=SidecarConfig(use=False), endpoints={"small": small}, mix={"small": 1.0})


def _check(items: Sequence[Item], got: Sequence[CaptionText]) -> None:
    """Every clip has its own caption or an error, in order; there is nothing else."""
    assert len(got) == len(items) and wrong_rows(items, got) == []


ALL = sorted(n.removeprefix("do_") for n in dir(CaptionServer) if n.startswith("do_"))


@pytest.mark.parametrize("seed", range(10))
def test_captions_never_land_on_a_wrong_clip(seed: int) -> None:
    """Answers shuffled, delayed, doubled, cut, on other clips or frames, errors and dropped connections, drawn anew for each request: every
    clip ends with its own caption or an error; requests, tokens and requests in flight stay within their limits, as the server counts."""

    items = make_items(32, seed)
    tokens = 80_000 if seed % 2 else 2_000_000
    limits = dataclasses.replace(LIMITS, timeout_s=0.5, max_requests=70, max_tokens=tokens, concurrency=2 + seed % 5)
    with CaptionServer(misbehave(seed)) as server:
        got = CaptionClips(_config(server, limits))(items)
        _check(items, got)
        assert len(server.seen.asked) <= 70 and server.seen.tokens <= tokens and server.seen.most_in_flight <= limits.concurrency
        assert max(Counter(a.clip for a in server.seen.asked).values()) <= limits.attempts
    assert sum(row.error_code is None for row in got) >= 8


@pytest.mark.parametrize("action", [n for n in ALL if n != "key_in_answer"])
def test_each_behaviour_ends_as_it_should(action: str) -> None:
    """One misbehaviour, always: a caption where the answer is good all the same, else the error that names it, and no caption."""
    expected = {
        "other": "wrong_clip", "other_clip": "wrong_clip", "other_frames": "wrong_frames", "no_ids": "malformed", "twice": "malformed",
        "two_choices": "malformed", "same_key": "malformed", "cut_json": "malformed", "cut_body": "unreachable", "long": "too_long",
        "huge": "too_large", "deep": "malformed", "empty": "empty", "refused": "refused", "filtered": "refused", "out_of_tokens": "too_long",
        "not_json": "malformed", "wrong_types": "malformed", "error": "http_500", "busy": "http_429", "busy_now": "http_429",
        "busy_for_long": "http_429", "denied": "http_401", "unfit": "http_400", "elsewhere": "http_307", "drop": "unreachable", "drip": "timeout",
        "drip_head": "timeout", "late": "timeout",
    }  # fmt: skip
    items = make_items(2, action)
    with CaptionServer(lambda asked: action if asked.clip == items[1][0].clip_id else "good") as server:
        caption = CaptionClips(_config(server, dataclasses.replace(LIMITS, timeout_s=1.0, attempts=1, concurrency=1)))
        started = time.monotonic()
        got = caption(items)
        assert time.monotonic() - started < 5
    _check(items, got)
    assert got[0].error_code is None and got[1].error_code == (None if action in FINE else expected[action])


def test_a_request_carries_clip_digest_and_pictures() -> None:
    """Clip id and digest stand in the text, in the metadata and (the id) in a header; the pictures sent are the ones that are recorded."""
    items = make_items(1, n_frames=9)
    with CaptionServer() as server:
        got = CaptionClips(_config(server, frames=3))(items)
        (asked,) = server.seen.asked
    assert asked.n_pictures == 3 and asked.path == "/v1/chat/completions"
    assert asked.body["metadata"] == {"clip": items[0][0].clip_id, "frames": asked.digest} and got[0].frame_digest == asked.digest
    assert asked.digest in asked.body["messages"][0]["content"][0]["text"]
    assert asked.headers["X-Client-Request-Id"].startswith(items[0][0].clip_id) and "Authorization" not in asked.headers
    assert got[0].captioner == "tiny-vl" and got[0].captioner_version.startswith("tiny-vl-0001:fp_7:")


def test_requests_are_in_flight_together_up_to_the_limit() -> None:
    """With work enough there are as many requests under way as allowed, and never one more."""
    together = threading.Barrier(3, timeout=5)

    def behave(asked: Asked) -> str:
        together.wait()
        return "good"

    with CaptionServer(behave) as server:
        CaptionClips(_config(server, dataclasses.replace(LIMITS, concurrency=3)))(make_items(24))
        assert server.seen.most_in_flight == 3


def test_what_failed_is_asked_again() -> None:
    """Errors, dropped connections and bad answers are asked again with another seed; one that stays bad costs its attempts and no more."""
    turns = ("error", "other", "good")
    items = make_items(3)
    with CaptionServer(lambda asked: turns[asked.attempt]) as server:
        got = CaptionClips(_config(server))(items)
        assert [row.error_code for row in got] == [None] * 3 and len(server.seen.asked) == 9
        assert len({a.body["seed"] for a in server.seen.asked}) == 9
    _check(items, got)


def test_retry_after_holds_for_everybody() -> None:
    """After a 429 with Retry-After, no request goes out before the time has come, from whichever thread."""
    items = make_items(6)
    first: list[float] = []

    def behave(asked: Asked) -> str:
        if not first:
            first.append(time.monotonic())
            return "busy"
        if time.monotonic() < first[0] + 0.5:
            time.sleep(0.5)  # what the other thread had under way comes back when the first has long been told to wait
        return "good"

    with CaptionServer(behave) as server:
        _check(items, got := CaptionClips(_config(server, dataclasses.replace(LIMITS, concurrency=2)))(items))
        later = sorted(a.at for a in server.seen.asked)
    assert all(row.error_code is None for row in got)
    assert sum(at < first[0] + 0.95 for at in later) <= 2  # the first, and what the other thread had under way
    assert later[-1] >= first[0] + 1.0


def test_an_endpoint_that_wants_too_long_a_pause_is_left_alone() -> None:
    """A Retry-After beyond `max_wait_s` fails the clips at once, without a request before its time, in later batches too."""
    items = make_items(6)
    with CaptionServer(lambda asked: "busy_for_long") as server:
        caption = CaptionClips(_config(server, dataclasses.replace(LIMITS, concurrency=1)))
        got = [*caption(items[:3]), *caption(items[3:])]
        assert len(server.seen.asked) == 1
    assert {row.error_code for row in got} == {"http_429"} and is_transient("http_429")


@pytest.mark.parametrize(("limit", "value"), [("max_requests", 5), ("max_tokens", 4 * TOKENS + 6000)])
def test_the_budget_ends_with_errors(limit: str, value: int) -> None:
    """When requests or tokens are spent, the clips that remain get the error `budget`, in this batch and the next; the server is not asked."""
    items = make_items(12)
    with CaptionServer() as server:
        caption = CaptionClips(_config(server, dataclasses.replace(LIMITS, concurrency=3, **{limit: value})))
        got = [*caption(items[:6]), *caption(items[6:])]
        _check(items, got)
        made = sum(row.error_code is None for row in got)
        assert 1 <= made == len(server.seen.asked) <= 5 and (limit == "max_requests" or server.seen.tokens <= value)
    assert (
        {row.error_code for row in got[6:]} <= {None, "budget"} and "budget" in {row.error_code for row in got} and is_transient("budget")
    )


def test_tokens_that_are_not_reported_stay_spent() -> None:
    """Without a usage in the reply, the worst case of the request counts against the budget."""
    with CaptionServer(lambda asked: "no_usage") as server:
        got = CaptionClips(_config(server, dataclasses.replace(LIMITS, concurrency=1, max_tokens=3 * 5500)))(make_items(6))
    assert [row.error_code for row in got].count(None) == 3


def test_a_dead_endpoint_is_given_up() -> None:
    """After so many clips in a row without an answer the rest of the batch is not tried; bad answers do not count; the next batch is tried."""
    items = make_items(8)
    limits = dataclasses.replace(LIMITS, concurrency=1, attempts=2, give_up_after=3)
    with CaptionServer(lambda asked: "drop") as server:
        caption = CaptionClips(_config(server, limits))
        assert [row.error_code for row in caption(items)] == ["unreachable"] * 3 + ["given_up"] * 5
        assert len(server.seen.asked) == 6
        server.behave = lambda asked: "good"
        assert [row.error_code for row in caption(items)] == [None] * 8
        server.behave = lambda asked: "refused"
        assert [row.error_code for row in caption(items)] == ["refused"] * 8


def test_a_wrong_key_costs_one_request_a_clip() -> None:
    """What another attempt cannot mend is not tried again."""
    with CaptionServer(lambda asked: "denied") as server:
        CaptionClips(_config(server))(make_items(2))
        assert len(server.seen.asked) == 2


def test_no_redirect_is_followed() -> None:
    """A redirect, even to the same host, is an error of one request."""
    with CaptionServer(lambda asked: "elsewhere") as server:
        assert CaptionClips(_config(server))(make_items(1))[0].error_code == "http_307" and len(server.seen.asked) == 1


@pytest.mark.parametrize("action", ["denied", "key_in_answer"])
def test_the_key_is_in_nothing_that_is_kept(action: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The key comes from the named variable and goes into the header only: not into rows, configuration, objects' text or output, even
    where the endpoint repeats it in an error or a caption."""
    monkeypatch.setenv("CAPTION_KEY", KEY)
    with CaptionServer(lambda asked: action) as server:
        cfg = _config(server, api_key_env="CAPTION_KEY")
        stage = CaptionClips(cfg)
        got = stage(make_items(1))
        assert server.seen.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    kept = f"{got} {cfg} {stage} {stage.__dict__} {capfd.readouterr()}"
    assert got[0].text is None and KEY not in kept and KEY[3:12] not in kept


def test_a_missing_or_odd_key_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and never its value."""
    with CaptionServer() as server:
        cfg = _config(server, api_key_env="CAPTION_KEY")
        monkeypatch.delenv("CAPTION_KEY", raising=False)
        with pytest.raises(KeyMissing, match="CAPTION_KEY"):
            CaptionClips(cfg)
        monkeypatch.setenv("CAPTION_KEY", "sk-secret\r\nX-Evil: 1")
        with pytest.raises(KeyMissing, match="CAPTION_KEY") as error:
            CaptionClips(cfg)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/v1", "localhost:8000", "http://", "https://user:secret@host/v1", "https://host/v1?key=secret", "http://host:x"]
)  # fmt: skip
def test_only_plain_addresses_are_taken(url: str) -> None:
    """http and https without user, password or query; the error does not repeat what may be a password."""
    with pytest.raises(ValueError) as error:
        EndpointConfig(base_url=url, model="m")
    assert "secret" not in str(error.value)


def test_a_key_does_not_travel_in_the_clear() -> None:
    """A key over plain http to another machine must be allowed by hand."""
    with pytest.raises(ValueError, match="https"):
        EndpointConfig(base_url="http://gpu-7/v1", model="m", api_key_env="K")
    assert EndpointConfig(base_url="http://gpu-7/v1", model="m", api_key_env="K", plain_http_key=True).api_key_env == "K"


def test_frames_that_do_not_decode_are_not_sent() -> None:
    """A broken key frame, or none, is an error without a request; the other clips of the batch are captioned."""
    items = make_items(3)
    items[0] = (*items[0][:2], [dataclasses.replace(items[0][2][0], jpeg=b"junk")])
    items[1] = (*items[1][:2], [])
    with CaptionServer() as server:
        got = CaptionClips(_config(server))(items)
        assert len(server.seen.asked) == 1
    assert [row.error_code for row in got] == ["bad_keyframe", "bad_keyframe", None]


def test_two_endpoints_share_the_clips_by_key() -> None:
    """Each clip is asked of the captioner that the draw gives it, and its row says which model wrote it."""
    items = make_items(40)
    with CaptionServer() as one, CaptionServer() as two:
        cfg = dataclasses.replace(
            _config(one),
            endpoints={
                "small": EndpointConfig(base_url=one.url, model="vl-8b", limits=LIMITS),
                "large": EndpointConfig(base_url=two.url, model="vl-70b", limits=LIMITS),
            },
            mix={"small": 0.7, "large": 0.3},
        )
        stage = CaptionClips(cfg)
        got = stage(items)
        _check(items, got)
        assert {a.clip for a in one.seen.asked} == {r.clip_id for r in got if r.captioner == "vl-8b"}
        assert {a.clip for a in two.seen.asked} == {r.clip_id for r in got if r.captioner == "vl-70b"}
        assert len(one.seen.asked) + len(two.seen.asked) == 40 and 4 <= len(two.seen.asked) <= 20
    assert [stage.captioner_of(c) for c, _, _ in items] == [stage.captioner_of(c) for c, _, _ in items]


@pytest.mark.parametrize(("header", "low", "high"), [(None, 0, 0), ("3", 3, 3), ("soon", 0, 0), ("-1", 0, 0), ("9" * 400, 86_400, 86_400)])
def test_retry_after_is_read_or_ignored(header: str | None, low: float, high: float) -> None:
    """Seconds are read, at most a day of them; nonsense is no wish."""
    assert low <= http_post._seconds(header) <= high


def test_retry_after_may_be_a_date() -> None:
    """A date in the future is seconds from now."""
    from email.utils import formatdate

    assert 50 < http_post._seconds(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert http_post._seconds(formatdate(0, usegmt=True)) == 0
