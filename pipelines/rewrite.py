"""A prompt in the words of the captions that a model was trained on, by a language model at an OpenAI-compatible address.

The paper does it with a finetuned Llama (Movie Gen, prompt rewriting); which model answers is the user's choice. Off unless an address is given.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.adapters.http_post import parse_address, post
from curation.caption_prompt import Fault, shown
from manifests.files import write_atomic

INSTRUCTIONS = (
    "Rewrite the user's prompt as the caption of a short video: one paragraph of plain sentences that say what is seen, how it moves, how "
    "the camera moves, and the light. Add nothing that contradicts the prompt. Keep quoted text letter by letter. Answer with the caption alone."
)
MAX_CHARACTERS = 2000


class RewriteError(Exception):
    """The prompt could not be rewritten; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteConfig:
    """Which model rewrites. The key is read from the environment, and only its variable's name is ever stored."""

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 60.0


def rewrite(prompt: str, config: RewriteConfig) -> str:
    """The prompt as a caption; RewriteError when the server does not give one."""
    body = {
        "model": config.model,
        "messages": [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 600,
    }
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(config.api_key_variable):
        headers["Authorization"] = f"Bearer {key}"
    try:
        address = parse_address(config.base_url)
        if key and address.shows_its_traffic:
            raise RewriteError(f"{address.host}: expected https for an address that a key is sent to, found http")
        reply = post(address, "/chat/completions", json.dumps(body).encode(), headers, config.timeout_s)
    except (ValueError, Fault) as error:
        raise RewriteError(f"prompt rewriter: {error}") from error
    if reply.status != 200:
        raise RewriteError(f"prompt rewriter: expected status 200, found {reply.status}: {shown(reply.body.decode('utf-8', 'replace'))}")
    try:
        text = json.loads(reply.body)["choices"][0]["message"]["content"]
        words = " ".join(str(text).split()) if isinstance(text, str) else ""
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RewriteError(f"prompt rewriter: expected a chat completion, found {shown(reply.body.decode('utf-8', 'replace'))}") from error
    if not words:
        raise RewriteError("prompt rewriter: expected a caption, found none")
    return words[:MAX_CHARACTERS]


def rewritten(prompt: str, config: RewriteConfig, kept: Path) -> str:
    """The prompt as a caption. One that the file `kept` has of this address and model is taken: asked again, a model may choose other words,
    and a film that is finished would be another. RewriteError when the file is none of ours, or the server gives no caption."""
    asked = {"prompt": prompt, "address": config.base_url, "model": config.model}
    rows = _kept(kept)
    for row in rows:
        if {name: row[name] for name in asked} == asked:
            return str(row["caption"])
    caption = rewrite(prompt, config)
    write_atomic(kept, json.dumps({"captions": [*rows, asked | {"caption": caption}]}, indent=1, ensure_ascii=False).encode())
    return caption


def _kept(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_bytes())["captions"]
        if all(isinstance(row[name], str) for row in rows for name in ("prompt", "address", "model", "caption")):
            return list(rows)
        found = "other values than text"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = shown(str(error))
    raise RewriteError(f"{path}: expected the captions that prompts were rewritten as, found {found}; remove it to have them written anew")
