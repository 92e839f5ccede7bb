"""A chat-completions server on 127.0.0.1 that misbehaves on request, counts what it is asked, and knows what the right answer was.

The right caption of a clip is a sentence that only this clip and only these pictures have: `truth(clip, digest)`, where the digest is made
from the pictures that came with the request, not copied from its text. So a caption that lands on a wrong clip is seen.
"""

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from curation.caption_prompt import frame_digest
from curation.captions import CaptionText
from curation.keyframes import KeyFrame, encode_jpeg
from manifests import ids
from manifests.records import Asset, Clip

TOKENS = 321
"""Tokens that each good answer reports."""


def truth(clip: str, digest: str) -> str:
    """The caption that belongs to this clip with these pictures, and to nothing else."""
    return f"A scene with the number {int(ids.digest('truth', clip, digest)[:12], 16)}."


@dataclass(frozen=True)
class Asked:
    """One request as the server sees it. `attempt` counts the requests for the clip, from 0."""

    clip: str
    digest: str
    n_pictures: int
    attempt: int
    at: float
    body: dict[str, Any]
    headers: dict[str, str]
    path: str


@dataclass
class Seen:
    """What the server counted."""

    asked: list[Asked] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    tokens: int = 0  # reported in answers


Behaviour = Callable[[Asked], str]
"""The name of what is done with a request; see CaptionServer's methods named do_<name>."""


class CaptionServer:
    """Serves until the with-block ends. `behave` is called in the request's own thread."""

    def __init__(self, behave: Behaviour = lambda asked: "good") -> None:
        self.behave = behave
        self.seen = Seen()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._attempts: Counter[str] = Counter()
        self._earlier: list[Asked] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._serve(self)

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """The base URL that goes into a configuration."""
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "CaptionServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        at = time.monotonic()
        with self._lock:
            self.seen.in_flight += 1
            self.seen.most_in_flight = max(self.seen.most_in_flight, self.seen.in_flight)
        try:
            asked = self._read(request, at)
            action = self.behave(asked)
            with suppress(OSError):  # the client may have gone
                getattr(self, f"do_{action}")(request, asked)
                request.wfile.flush()
        finally:
            request.close_connection = True
            self._leave(request)

    def _leave(self, request: BaseHTTPRequestHandler) -> None:
        """The request is no longer in flight: called before its reply goes out, as the client may be faster than we are."""
        if not getattr(request, "left", False):
            request.left = True  # type: ignore[attr-defined]
            with self._lock:
                self.seen.in_flight -= 1

    def _read(self, request: BaseHTTPRequestHandler, at: float) -> Asked:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        digest = frame_digest([base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True) for url in urls])
        clip = next(line for line in content[0]["text"].splitlines() if line.startswith("clip: ")).removeprefix("clip: ")
        with self._lock:
            attempt = self._attempts[clip]
            self._attempts[clip] += 1
            asked = Asked(clip, digest, len(urls), attempt, at, body, dict(request.headers.items()), request.path)
            self.seen.asked.append(asked)
            self._earlier.append(asked)
        return asked

    # What can be done with a request.

    def do_good(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked))

    def do_slow(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Answers out of turn: after 0 to 30 ms."""
        self._stop.wait(0.03 * ids.uniform("slow", asked.clip, asked.attempt))
        self.do_good(request, asked)

    def do_late(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Answers when the client has given up on it."""
        self._leave(request)
        self._stop.wait(1.5)
        self.do_good(request, asked)

    def do_other(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """A whole and right answer to somebody else's request, also one that was answered before."""
        others = [a for a in self._earlier if a.clip != asked.clip]
        self._answer(request, _content(others[-1]) if others else "{}")

    def do_other_clip(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """The digest is right, the clip is not."""
        self._answer(request, _content(asked, clip=ids.digest("another", asked.clip)))

    def do_other_frames(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """The clip is right, the digest is not."""
        self._answer(request, _content(asked, frames=ids.digest("another", asked.digest)))

    def do_no_ids(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, json.dumps({"caption": truth(asked.clip, asked.digest)}))

    def do_twice(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Two answers in one: another's and ours."""
        other = next((a for a in self._earlier if a.clip != asked.clip), asked)
        self._answer(request, _content(other) + "\n" + _content(asked))

    def do_two_choices(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        body = _completion(_content(asked))
        self._send(request, 200, json.dumps(body | {"choices": body["choices"] * 2}).encode())

    def do_same_key(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Two captions under one key; which one a reader takes is chance."""
        self._answer(request, _content(asked)[:-1] + ', "caption": "A wrong one."}')

    def do_fenced(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, f"```json\n{_content(asked)}\n```")

    def do_cut_json(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        content = _content(asked)
        self._answer(request, content[: int(len(content) * ids.uniform("cut", asked.clip, asked.attempt))])

    def do_cut_body(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Promises more bytes than come."""
        data = json.dumps(_completion(_content(asked))).encode()
        self._head(request, 200, len(data))
        request.wfile.write(data[: len(data) // 2])

    def do_long(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked, caption="word " * 50_000))

    def do_huge(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 200, b'{"a": "' + b"x" * (3 << 20) + b'"}')

    def do_deep(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, "[" * 200_000)

    def do_empty(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked, caption="\u202e \u200b\n"))

    def do_refused(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked, caption="I'm sorry, but I can't help with that."))

    def do_filtered(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked), finish="content_filter")

    def do_out_of_tokens(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked), finish="length")

    def do_not_json(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 200, b"<html>all is well</html>")

    def do_wrong_types(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(
            request, 200, b'{"choices": [{"message": {"content": 7}, "finish_reason": []}], "usage": {"total_tokens": -5}, "model": {}}'
        )

    def do_error(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 500, b"broken")

    def do_busy(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 429, b"later", {"Retry-After": "1"})

    def do_busy_for_long(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 429, b"tomorrow", {"Retry-After": "7200"})

    def do_busy_now(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 429, b"again", {"Retry-After": "0"})

    def do_unfit(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """As servers do with a picture or a prompt that they cannot take."""
        self._send(request, 400, b"this model's maximum context length is 8 tokens")

    def do_denied(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """As vendors do: the key stands in the error."""
        self._send(request, 401, f"wrong key: {asked.headers.get('Authorization')}".encode())

    def do_key_in_answer(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._answer(request, _content(asked, caption=f"A sheet of paper with {asked.headers.get('Authorization')} on it."))

    def do_elsewhere(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._send(request, 307, b"", {"Location": f"{self.url}/chat/completions"})

    def do_drop(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """Closes without a word."""

    def do_drip(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """A byte now and then: no read of it is late, the whole never comes."""
        self._head(request, 200, 10_000)
        while not self._stop.wait(0.05):
            request.wfile.write(b" ")

    def do_drip_head(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        self._leave(request)
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self._stop.wait(0.05):
            request.wfile.write(b"X-A: b\r\n")

    def do_no_length(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        """A good reply that ends with its connection, as servers of HTTP/1.0 do."""
        self._leave(request)
        request.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(_completion(_content(asked))).encode())

    def do_no_usage(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        body = {k: v for k, v in _completion(_content(asked)).items() if k != "usage"}
        self._send(request, 200, json.dumps(body).encode())

    def _answer(self, request: BaseHTTPRequestHandler, content: str, finish: str = "stop") -> None:
        with self._lock:
            self.seen.tokens += TOKENS
        self._send(request, 200, json.dumps(_completion(content, finish)).encode())

    def _send(self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(request, status, len(data), headers)
        request.wfile.write(data)

    def _head(self, request: BaseHTTPRequestHandler, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self._leave(request)
        request.send_response(status)
        for name, value in ({"Content-Length": str(length)} | (headers or {})).items():
            request.send_header(name, value)
        request.end_headers()


def _content(asked: Asked, clip: str | None = None, frames: str | None = None, caption: str | None = None) -> str:
    caption = truth(asked.clip, asked.digest) if caption is None else caption
    return json.dumps({"clip": clip or asked.clip, "frames": frames or asked.digest, "caption": caption})


def _completion(content: str, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "tiny-vl-0001",
        "system_fingerprint": "fp_\u202e7",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 300, "completion_tokens": TOKENS - 300, "total_tokens": TOKENS},
    }


FINE = ("good", "slow", "fenced", "no_length", "no_usage")
"""Behaviours whose answers are right."""

HOSTILE = tuple(sorted(
    {n.removeprefix("do_") for n in dir(CaptionServer) if n.startswith("do_")}
    - {*FINE, "busy", "busy_for_long", "denied", "elsewhere", "key_in_answer", "drip", "drip_head", "late"}
))  # fmt: skip
"""Behaviours of which any number can be had in a short test: those that make the client wait are not among them."""


def misbehave(seed: int) -> Behaviour:
    """Draws anew for each request: 2 % never come in time, 43 % are answered well (some out of turn), the rest in any bad way there is."""

    def behave(asked: Asked) -> str:
        u = ids.uniform("behaviour", seed, asked.clip, asked.attempt)
        if u < 0.02:
            return ("late", "drip", "drip_head", "late")[int(u * 200) % 4]
        names = FINE if u < 0.45 else HOSTILE
        return names[int(u * 10_000) % len(names)]

    return behave


Item = tuple[Clip, Asset, list[KeyFrame]]


def make_items(n: int, key: object = 0, n_frames: int = 2) -> list[Item]:
    """Clips with pictures of their own."""
    items = []
    for i in range(n):
        rng = np.random.Generator(np.random.Philox(key=int(ids.digest("clip", key, i)[:8], 16)))
        owner = ids.digest("asset", key, i)
        asset = Asset(asset_id=owner, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri=f"{i}.mp4")
        clip = Clip(clip_id=ids.clip_id(owner, "video", 0, 1_000_000), asset_id=owner, kind="video", start_us=0, end_us=1_000_000)
        jpegs = [encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(n_frames)]
        frames = [KeyFrame(asset_id=owner, index=k, pts_us=k * 1000, width=16, height=16, jpeg=j) for k, j in enumerate(jpegs)]
        items.append((clip, asset, frames))
    return items


def wrong_rows(items: Sequence[Item], rows: Sequence[CaptionText]) -> list[CaptionText]:
    """The rows that are not the clip's own caption or an error with a reason; a missing or surplus row counts."""
    if len(rows) != len(items):
        return list(rows) or [CaptionText(clip_id="missing")]
    return [row for item, row in zip(items, rows, strict=True) if not _is_right(item, row)]


def _is_right(item: Item, row: CaptionText) -> bool:
    clip, _, frames = item
    if row.error_code is not None:
        return row.clip_id == clip.clip_id and row.text is None and bool(row.error_detail)
    digest = frame_digest([f.jpeg for f in frames])
    return (row.clip_id, row.text, row.frame_digest) == (clip.clip_id, truth(clip.clip_id, digest), digest)
