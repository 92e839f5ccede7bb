"""Captions from any endpoint that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, a vendor), with a few key frames as data URLs.

Each clip is one request at a time on a connection of its own: an answer that comes too late dies with its connection and can not be
taken for the next one's. The answer must repeat clip id and frame digest (`caption_prompt`). What fails is asked again with exponential
back-off and keyed jitter, never earlier than a Retry-After allows; what still fails is an outcome with its reason. Redirects are not
followed and proxies of the environment are not used, so pictures and key go to the configured host only.
"""

import base64
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from curation.adapters.http_post import Reply, parse_address, post
from curation.adapters.request_limits import Budget, Limits, Pace, Streak
from curation.caption_prompt import (
    INSTRUCTIONS,
    PROMPT_VERSION,
    Failed,
    Fault,
    Length,
    Subject,
    Written,
    chosen_jpegs,
    clean,
    frame_digest,
    question,
    read_answer,
    shown,
)
from manifests import ids


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """An endpoint and what is asked of it. The key stands in the environment variable of this name, and nowhere else."""

    base_url: str  # up to and with the version, e.g. http://localhost:8000/v1
    model: str
    api_key_env: str | None = None
    plain_http_key: bool = False  # allows a key to be sent over plain http to another machine
    frames: int = 4  # key frames sent, at most
    instructions: str = INSTRUCTIONS
    temperature: float = 0.2
    answer_tokens: int = 512  # 100 words, the 64 digits and their keys come to some 250
    answer_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # vendors differ
    frame_tokens: int = 1500  # set aside for a picture: 512 px cost 250 to 1100 tokens with the usual models
    json_mode: bool = True  # asks for `response_format: json_object`
    metadata: bool = True  # sends clip and digest as `metadata` too; some vendors refuse that
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        address = parse_address(self.base_url)
        if self.api_key_env and address.shows_its_traffic and not self.plain_http_key:
            raise ValueError("base_url: expected https, as a key is sent; set plain_http_key where the network is yours")
        if self.frames < 1 or self.answer_tokens < 1:
            raise ValueError("frames and answer_tokens must be at least 1")


class KeyMissing(RuntimeError):
    """The environment variable that should hold the key does not; the message names the variable."""


class OpenAICaptioner:
    """Captions through an endpoint. Keeps the budget and the pace over all batches."""

    def __init__(self, cfg: EndpointConfig, length: Length, seed: int = 0) -> None:
        self.cfg = cfg
        self.length = length
        self.seed = seed
        self.budget = Budget(cfg.limits.max_requests, cfg.limits.max_tokens)
        self._pace = Pace(cfg.limits.max_wait_s)
        self._address = parse_address(cfg.base_url)
        self._key = _Secret(_key(cfg.api_key_env))
        self._prompt = ids.digest("prompt/v1", PROMPT_VERSION, cfg.instructions)[:8]

    def write(self, subjects: Sequence[Subject]) -> list[Written | Failed]:
        """One outcome a subject, in order."""
        run = Streak(self.cfg.limits.give_up_after)
        with ThreadPoolExecutor(self.cfg.limits.concurrency) as pool:
            return list(pool.map(lambda s: self._write(s, run), subjects))

    def _write(self, subject: Subject, streak: Streak) -> Written | Failed:
        """Attempts until one gives a caption, none are left, or another would not help."""
        clip_id, digest = subject.clip.clip_id, None
        try:
            jpegs = chosen_jpegs(subject, self.cfg.frames)
            digest = frame_digest(jpegs)
            last = Fault("given_up", "no attempt was made")
            for attempt in range(self.cfg.limits.attempts):
                streak.check()
                try:
                    written = self._attempt(clip_id, jpegs, digest, attempt)
                except Fault as fault:
                    last = fault
                    if not _may_pass(fault.code):
                        break
                else:
                    streak.broken()
                    return written
            streak.count(last)
        except Fault as fault:
            last = fault
        detail = self._key.withhold(f"clip {clip_id}: {last.detail}")
        return Failed(clip_id=clip_id, captioner=self.cfg.model, code=last.code, detail=detail, frame_digest=digest)

    def _attempt(self, clip_id: str, jpegs: Sequence[bytes], digest: str, attempt: int) -> Written:
        jitter = 0.5 + ids.uniform("captions/backoff", self.seed, clip_id, attempt)
        self._pace.wait(self.cfg.limits.backoff_s * 2 ** (attempt - 1) * jitter if attempt else 0.0)
        text = question(self.cfg.instructions, clip_id, digest)
        # No tokeniser makes more than one token of a byte.
        reserved = self.cfg.answer_tokens + self.cfg.frame_tokens * len(jpegs) + len(text.encode())
        self.budget.take(reserved)
        body = json.dumps(self._body(text, jpegs, clip_id, digest, attempt)).encode()
        headers = {"Content-Type": "application/json", "X-Client-Request-Id": f"{clip_id}-{attempt}", **self._key.header()}
        reply = post(self._address, "/chat/completions", body, headers, self.cfg.limits.timeout_s)
        if reply.status != 200:
            self.budget.settle(reserved, 0)  # what was refused is not charged for
            raise self._refusal(reply)
        answer = read_reply(reply.body)
        self.budget.settle(reserved, reserved if answer.tokens is None else answer.tokens)
        caption = read_answer(answer.text(), clip_id, digest, self.length)
        version = f"{answer.model}:{answer.fingerprint or '-'}:{self._prompt}"
        if self._key.is_in(caption) or self._key.is_in(version):
            raise Fault("malformed", "expected a description, found the key in the answer")
        return Written(clip_id=clip_id, text=caption, captioner=self.cfg.model, captioner_version=version, frame_digest=digest)

    def _body(self, text: str, jpegs: Sequence[bytes], clip_id: str, digest: str, attempt: int) -> dict[str, Any]:
        """The request. Its seed differs from attempt to attempt: the same question would get the same bad answer."""
        urls = [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" for jpeg in jpegs]
        content = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
        body: dict[str, Any] = {
            "model": self.cfg.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.cfg.temperature,
            "seed": int(ids.uniform("captions/seed", self.seed, clip_id, attempt) * 2**31),
            self.cfg.answer_tokens_key: self.cfg.answer_tokens,
        }
        if self.cfg.json_mode:
            body["response_format"] = {"type": "json_object"}
        if self.cfg.metadata:
            body["metadata"] = {"clip": clip_id, "frames": digest}
        return body

    def _refusal(self, reply: Reply) -> Fault:
        if reply.status in (429, 503):
            self._pace.hold(reply.retry_after_s)
        said = shown(reply.body[:2000].decode("utf-8", "replace"))
        return Fault(f"http_{reply.status}", f"expected status 200 from {self._address.host}, found {reply.status} {said}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a chat completion holds that we read. `tokens` is None where the endpoint does not say."""

    content: str | None
    finish: str | None
    refusal: str | None
    model: str
    fingerprint: str | None
    tokens: int | None

    def text(self) -> str:
        """The content, where it is a finished answer. Raises Fault."""
        if self.refusal is not None or self.finish == "content_filter":
            raise Fault("refused", f"expected a description, found a refusal: {shown(self.refusal or self.finish or '')}")
        if self.finish == "length":
            raise Fault("too_long", "expected an answer that ends by itself, found one that was cut at its limit of tokens")
        if self.content is None:
            raise Fault("malformed", "expected choices[0].message.content to be a text, found none")
        return self.content


def read_reply(body: bytes) -> Answer:
    """The parts of a chat completion; what is not of the expected type counts as missing. Raises Fault unless it has exactly one choice."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise Fault("malformed", f"expected a chat completion, found {shown(body[:2000].decode('utf-8', 'replace'))}") from e
    found = found if isinstance(found, dict) else {}
    choices = found.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Fault("malformed", "expected a chat completion with one choice, found something else")
    message, usage = choices[0].get("message"), found.get("usage")
    message, usage = message if isinstance(message, dict) else {}, usage if isinstance(usage, dict) else {}
    tokens = usage.get("total_tokens")
    return Answer(
        content=_text(message.get("content")),
        finish=_text(choices[0].get("finish_reason")),
        refusal=_text(message.get("refusal")),
        model=clean(_text(found.get("model")) or "", 100) or "-",
        fingerprint=clean(_text(found.get("system_fingerprint")) or "", 100) or None,
        tokens=tokens if type(tokens) is int and 0 <= tokens < 2**31 else None,
    )


class _Secret:
    """A key that goes into a header and into nothing that is kept."""

    def __init__(self, value: str) -> None:
        self._value = value
        # A shorter key is a placeholder (vLLM's "EMPTY") that may well be a word of a caption.
        self._pieces = {value[i : i + 8] for i in range(len(value) - 7)}

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def is_in(self, text: str) -> bool:
        """Whether eight characters of the key in a row stand in the text."""
        return any(piece in text for piece in self._pieces)

    def withhold(self, text: str) -> str:
        """The text, unless the endpoint repeats the key in it."""
        return "(withheld: the endpoint's words repeat the key)" if self.is_in(text) else text


def _key(variable: str | None) -> str:
    """The key in the environment, or none. Raises KeyMissing; the value is in no message."""
    if variable is None:
        return ""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise KeyMissing(f"captions: expected the endpoint's key in the environment variable {variable}, found none")
    if not (value.isascii() and value.isprintable()):
        raise KeyMissing(f"captions: expected printable ASCII in the environment variable {variable}, found other characters")
    return value


def _may_pass(code: str) -> bool:
    """Whether another attempt may do better."""
    return code != "budget" and (not code.startswith("http_") or code in ("http_408", "http_425", "http_429") or code >= "http_500")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
