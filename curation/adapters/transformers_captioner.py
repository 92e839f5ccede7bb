"""Captions from an image-text-to-text model of transformers (Qwen-VL, LLaVA, SmolVLM …) in a local folder. Nothing is ever fetched.

Only safetensors are read and no code from the folder is run. One clip is one call of `generate`, so its answer can be nobody else's; the
answer may still be asked to repeat clip id and frame digest (`answer: json`), as an endpoint must, where the model is able to. Decoding is
greedy: the same clip gets the same caption on the same machine. To caption much, serve the model (vLLM) and use an endpoint instead.
"""

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from curation.caption_prompt import (
    INSTRUCTIONS,
    PROMPT_VERSION,
    Failed,
    Fault,
    Length,
    Subject,
    Written,
    check_caption,
    chosen_jpegs,
    frame_digest,
    question,
    read_answer,
    shown,
)
from manifests import ids

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModelConfig:
    """Which folder holds the model, where it runs, and what is asked of it."""

    folder: str
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    frames: int = 4  # key frames looked at, at most
    instructions: str = INSTRUCTIONS
    answer: Literal["text", "json"] = "text"
    answer_tokens: int = 512
    max_time_s: float = 300.0  # for one clip; what is unfinished then is an error

    def __post_init__(self) -> None:
        if self.frames < 1 or self.answer_tokens < 1:
            raise ValueError("frames and answer_tokens must be at least 1")


class ModelError(RuntimeError):
    """The folder does not hold a model that can be used; the message says what to fetch and where to put it."""


class TransformersCaptioner:
    """Captions with a local model, in evaluation mode."""

    def __init__(self, cfg: LocalModelConfig, length: Length) -> None:
        import torch

        folder = _folder(cfg.folder)
        try:
            from safetensors import SafetensorError
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as e:
            raise ImportError("captions: expected the package transformers, found none; install the extra 'dailies[caption]'") from e
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        load: Any = AutoModelForImageTextToText.from_pretrained  # its types do not know that loading information comes with it
        try:
            self._processor = AutoProcessor.from_pretrained(folder, **local)
            model, loaded = load(folder, use_safetensors=True, dtype=getattr(torch, cfg.dtype), output_loading_info=True, **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
            raise ModelError(f"captions: expected an image-text-to-text model in {folder}, found {type(e).__name__}: {e}") from e
        lacking = sorted(map(str, {*loaded["missing_keys"], *loaded["mismatched_keys"]}))
        if lacking:  # the library would fill them with random numbers and say so in a log
            raise ModelError(f"captions: expected all weights of the model in {folder}, found none that fit for {', '.join(lacking[:5])}")
        self.cfg = cfg
        self.length = length
        self._model = model.to(cfg.device).eval()
        self.name = folder.name
        self.version = f"{weights_digest(folder)}:{ids.digest('prompt/v1', PROMPT_VERSION, cfg.instructions, cfg.answer)[:8]}"

    def write(self, subjects: Sequence[Subject]) -> list[Written | Failed]:
        """One outcome a subject, in order."""
        return [self._write(s) for s in subjects]

    def _write(self, subject: Subject) -> Written | Failed:
        clip_id, digest = subject.clip.clip_id, None
        try:
            jpegs = chosen_jpegs(subject, self.cfg.frames)
            digest = frame_digest(jpegs)
            if self.cfg.answer == "json":
                answer = self._generate(jpegs, question(self.cfg.instructions, clip_id, digest))
                text = read_answer(answer, clip_id, digest, self.length)
            else:
                text = check_caption(self._generate(jpegs, self.cfg.instructions), self.length)
        except Fault as fault:
            detail = f"clip {clip_id}: {fault.detail}"
            return Failed(clip_id=clip_id, captioner=self.name, code=fault.code, detail=detail, frame_digest=digest)
        return Written(clip_id=clip_id, text=text, captioner=self.name, captioner_version=self.version, frame_digest=digest)

    def _generate(self, jpegs: Sequence[bytes], text: str) -> str:
        """What the model answers. Raises Fault: `model_failed`, `timeout`, or `too_long` where it did not come to an end."""
        import torch

        started = time.monotonic()
        try:
            inputs = self._inputs(jpegs, text)
            with torch.inference_mode():
                made = self._model.generate(
                    **inputs, max_new_tokens=self.cfg.answer_tokens, max_time=self.cfg.max_time_s, do_sample=False, num_beams=1
                )
        except (RuntimeError, ValueError, IndexError, TypeError) as e:  # one clip's pictures, or memory: costs this clip, not the batch
            raise Fault("model_failed", f"expected an answer, found {type(e).__name__} {shown(str(e))}") from e
        new = made[0, inputs["input_ids"].shape[1] :].tolist()
        ends = self._model.generation_config.eos_token_id
        if not new or new[-1] not in (ends if isinstance(ends, list) else [ends]):
            late = time.monotonic() - started >= self.cfg.max_time_s
            raise Fault(
                "timeout" if late else "too_long", f"expected an answer that ends by itself, found {len(new)} tokens without an end"
            )
        return str(self._processor.decode(new, skip_special_tokens=True))

    def _inputs(self, jpegs: Sequence[bytes], text: str) -> Any:
        from PIL import Image

        pictures = [Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB") for jpeg in jpegs]
        content = [*({"type": "image", "image": picture} for picture in pictures), {"type": "text", "text": text}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return inputs.to(self.cfg.device, dtype=self._model.dtype)


def weights_digest(folder: Path) -> str:
    """16 hexadecimal digits over names and bytes of all files that make the model; reads each once, about a second for 2 GB."""
    h = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model")):
        inner = hashlib.sha256()
        with path.open("rb") as f:
            while block := f.read(_BLOCK_BYTES):
                inner.update(block)
        h.update(path.name.encode() + b"\0" + inner.digest())
    return h.hexdigest()[:16]


def _folder(name: str) -> Path:
    """The folder, resolved: a name that is none would be looked up on a hub."""
    folder = Path(name).resolve()
    wanted = "fetch config.json, the processor's and tokeniser's files and *.safetensors of an image-text-to-text model and put them there"
    if not folder.is_dir():
        raise ModelError(f"captions: expected the folder {folder}, found none; {wanted}")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(f"captions: expected config.json and *.safetensors in {folder}, found not both; {wanted}")
    return folder
