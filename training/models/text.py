"""Text encoders, frozen: UL2 (a T5 encoder), ByT5 for quoted text, MetaCLIP's text tower with long prompts, and one without weights.

Each turns a prompt into tokens (L, width); the transformer projects and joins them. UL2 understands, ByT5 spells what stands in
quotes, MetaCLIP aligns with pictures (Movie Gen, text). The empty prompt is a prompt too: it is what guidance is steered away from, so
every encoder gives at least one token. Weights are read from local folders, as safetensors only, and nothing is fetched.

The long-prompt MetaCLIP is not public: positions of a public one are grown from 77 to 256 here and not finetuned, a departure.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from manifests.ids import digest
from training import keyed
from training.errors import TrainingError

KEPT_POSITIONS = 20
"""First positions of a text tower that growth leaves alone: most captions it was trained on were about as short (Long-CLIP, 2024)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """Which encoders read the prompts: folders of weights, or None. Lengths in tokens; longer prompts are cut.

    The paper gives MetaCLIP's 256; the lengths of UL2 and ByT5 are a reproduction's, those of the byte encoder are ours.
    """

    ul2: str | None = None
    """Folder of a T5 encoder in the transformers layout: config.json, *.safetensors, tokenizer files."""
    byt5: str | None = None
    """Folder of a ByT5 encoder: config.json, *.safetensors."""
    metaclip: str | None = None
    """Folder of an open_clip model: open_clip_config.json, open_clip_model.safetensors."""
    ul2_tokens: int = 300
    byt5_tokens: int = 100
    metaclip_tokens: int = 256
    bytes_width: int = 0
    """Width of the encoder that needs no weights; 0 for none."""
    bytes_tokens: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if not (self.ul2 or self.byt5 or self.metaclip or self.bytes_width):
            raise ValueError("text: expected a folder for ul2, byt5 or metaclip, or bytes_width above 0, found none")
        if min(self.ul2_tokens, self.byt5_tokens, self.metaclip_tokens, self.bytes_tokens) < 2:
            raise ValueError("text: expected at least 2 tokens for each encoder")


class TextEncoder(Protocol):
    """A frozen function from prompts to tokens."""

    name: str
    width: int
    stored: bool
    """Whether its results are worth a place on disk."""

    @property
    def key(self) -> str:
        """Changes with anything that changes a result: weights, tokenizer, length."""

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """The tokens of each prompt, (L, width) on the CPU, 1 <= L, without padding."""


def load_encoders(config: TextConfig, device: torch.device | str = "cpu") -> list[TextEncoder]:
    """The encoders in the order in which their tokens are joined. Weights are read at their first use, so a full cache needs none."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    encoders: list[TextEncoder] = []
    if config.ul2:
        encoders.append(T5Text("ul2", Path(config.ul2), config.ul2_tokens, dtype, device))
    if config.byt5:
        encoders.append(T5Text("byt5", Path(config.byt5), config.byt5_tokens, dtype, device))
    if config.metaclip:
        encoders.append(MetaClipText(Path(config.metaclip), config.metaclip_tokens, dtype, device))
    if config.bytes_width:
        encoders.append(ByteText(config.bytes_width, config.bytes_tokens))
    return encoders


def check_widths(encoders: Sequence[TextEncoder], widths: Mapping[str, int]) -> None:
    """The encoders are those that the model reads, as wide as it expects; TrainingError names both."""
    found = {e.name: e.width for e in encoders}
    if found != dict(widths):
        raise TrainingError(f"text: expected encoders of widths {dict(widths)} as the model reads, found {found}")


def check_keys(encoders: Sequence[TextEncoder], keys: Mapping[str, str], where: str) -> None:
    """The encoders are those that the model of an export was trained under; TrainingError says which have changed."""
    found = {e.name: e.key for e in encoders}
    if found != dict(keys):
        raise TrainingError(f"{where}: expected the text encoders that it was trained with, text_keys {dict(keys)}, found {found}")


def prompt_of(caption: str, fps: float | None) -> str:
    """What a clip is trained under: its rate, then its caption; a picture (fps None) has no rate. 'FPS-24 A dog runs.'"""
    return caption if fps is None else f"FPS-{round(fps)} {caption}".rstrip()


def quoted(prompt: str) -> str:
    """What stands between double quotes (straight, curly or angle), joined by spaces; empty when nothing does."""
    found = re.findall(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|„([^“]+)“', prompt)
    return " ".join(part.strip() for group in found for part in group if part.strip())


class T5Text:
    """UL2 or ByT5: a T5 encoder's last hidden states. ByT5 reads bytes, and only the quoted part of a prompt."""

    stored = True

    def __init__(self, name: str, folder: Path, max_tokens: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.name, self._folder, self._max_tokens, self._dtype, self._device = name, folder, max_tokens, dtype, device
        described = read_description(folder / "config.json", f"the {name} encoder")
        if described.get("model_type") != "t5":
            raise TrainingError(f"{folder}/config.json: expected model_type t5, found {described.get('model_type')}")
        self.width = int(described["d_model"])

    @cached_property
    def key(self) -> str:
        """Digest of all files of the folder, length and precision."""
        return digest("text/v1", self.name, folder_digest(self._folder), self._max_tokens, self._dtype)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """(tokenizer, encoder), evaluated and frozen."""
        from transformers import AutoTokenizer, ByT5Tokenizer, T5EncoderModel

        local = {"local_files_only": True, "trust_remote_code": False}
        weight_files(self._folder, self.name)
        try:
            tokenizer = ByT5Tokenizer() if self.name == "byt5" else AutoTokenizer.from_pretrained(self._folder, **local)
            loaded: Any = T5EncoderModel.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True, dtype=self._dtype, output_loading_info=True
            )
            model, report = loaded
        except (OSError, ValueError, KeyError) as error:
            raise TrainingError(f"{self._folder}: expected a T5 encoder and its tokenizer, found {str(error)[:300]}") from error
        if missing := sorted(report["missing_keys"]):  # the library would leave them random
            raise TrainingError(f"{self._folder}: expected all weights of the encoder, found none for {missing[:5]}")
        return tokenizer, model.to(self._device).eval().requires_grad_(False)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Hidden states of each prompt, its end token last; each alone, as padding and company would change the last bits."""
        tokenizer, model = self._parts
        states = []
        for prompt in prompts:
            read = quoted(prompt) if self.name == "byt5" else prompt
            ids = tokenizer([read], truncation=True, max_length=self._max_tokens, return_tensors="pt").input_ids
            with torch.no_grad():
                states.append(model(input_ids=ids.to(self._device)).last_hidden_state[0].cpu())
        return states


class MetaClipText:
    """MetaCLIP's text tower (open_clip): the normalised states of every token up to its end, not the pooled one."""

    name, stored = "metaclip", True

    def __init__(self, folder: Path, max_tokens: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self._folder, self._max_tokens, self._dtype, self._device = folder, max_tokens, dtype, device
        described = read_description(folder / "open_clip_config.json", "the MetaCLIP text tower")
        self._model = described.get("model_cfg", described)
        known = {"context_length", "vocab_size", "width", "heads", "layers"}
        if not isinstance(text := self._model.get("text_cfg"), dict) or set(text) - known or not {"width", "heads", "layers"} <= set(text):
            raise TrainingError(f"{folder}/open_clip_config.json: expected text_cfg with {sorted(known)}, found {text}")
        self._text, self.width = text, int(text["width"])

    @cached_property
    def key(self) -> str:
        """Digest of all files of the folder, length and precision; `grown/v1` is the rule of growth."""
        return digest("text/v1", self.name, "grown/v1", folder_digest(self._folder), self._max_tokens, self._dtype)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """(tokenizer, tower), evaluated and frozen, with positions for `max_tokens`."""
        from open_clip import SimpleTokenizer
        from open_clip.transformer import QuickGELU, TextTransformer
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        (path,) = weight_files(self._folder, "open_clip_model")[:1]
        activation = QuickGELU if self._model.get("quick_gelu") else torch.nn.GELU
        with torch.device("meta"):
            sizes = {**self._text, "context_length": self._max_tokens}
            tower = TextTransformer(**sizes, output_dim=int(self._model["embed_dim"]), act_layer=activation, output_tokens=True)
        try:
            state = {n.removeprefix("text."): v for n, v in load_file(path).items() if not n.startswith(("visual.", "logit_"))}
            state["positional_embedding"] = grow_text_positions(state["positional_embedding"], self._max_tokens)
            tower.load_state_dict(state, strict=True, assign=True)
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise TrainingError(f"{path}: expected the weights of the text tower, found {str(error)[:300]}") from error
        tower.attn_mask = _causal(self._max_tokens)  # a buffer that is not saved: made on the meta device it is empty
        return SimpleTokenizer(), tower.to(self._device, self._dtype).eval().requires_grad_(False)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """States from the start token to the end token of each prompt; each alone."""
        tokenizer, tower = self._parts
        states = []
        for prompt in prompts:
            ids = tokenizer([prompt], context_length=self._max_tokens)
            with torch.no_grad():
                _, row = tower(ids.to(self._device))
            states.append(row[0, : int(ids.argmax()) + 1].cpu())  # the end token has the highest number
        return states


class ByteText:
    """An encoder without weights: each word is the sum of fixed random vectors of its byte n-grams, so that words alike in spelling are
    near each other and different captions are far apart; a wave marks the word's place. It knows no meaning: for demos and tests."""

    name, stored = "bytes", False

    def __init__(self, width: int, max_tokens: int) -> None:
        self.width, self._max_tokens = width, max_tokens

    @property
    def key(self) -> str:
        """Digest of the rule and its sizes."""
        return digest("text/v1", self.name, "hashed/v1", self.width, self._max_tokens)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """One token a word or mark, and one for the end."""
        return [self._encode(p) for p in prompts]

    def _encode(self, prompt: str) -> Tensor:
        words = re.findall(r"\w+|[^\w\s]", prompt.casefold())[: self._max_tokens - 1]
        vectors = torch.stack([_word(w, self.width) for w in [*words, ""]])
        return vectors + 0.3 * _waves(len(vectors), self.width)


def grow_text_positions(table: Tensor, length: int) -> Tensor:
    """Positions (length, width) from a shorter table: the first 20 stay, the others are stretched linearly over the rest."""
    if length <= len(table):
        return table[:length]
    rest = table[KEPT_POSITIONS:].float().T[None]
    stretched = torch.nn.functional.interpolate(rest, size=length - KEPT_POSITIONS, mode="linear", align_corners=True)[0].T
    return torch.cat([table[:KEPT_POSITIONS], stretched.to(table.dtype)])


@lru_cache(maxsize=1 << 16)
def _word(word: str, width: int) -> Tensor:
    """The sum of the vectors of the word and of its byte n-grams of 3 to 5, at the length of one vector."""
    data = b"<" + word.encode() + b">"
    grams = [data] + [data[i : i + n] for n in (3, 4, 5) for i in range(len(data) - n + 1) if n < len(data)]
    summed: Tensor = torch.stack([keyed.normal((width,), "bytes/v1", g.hex()) for g in grams]).sum(0)
    return summed / math.sqrt(len(grams))


def _waves(length: int, width: int) -> Tensor:
    """Sines of each place at `width` frequencies, (length, width)."""
    rates = 10_000.0 ** -(torch.arange(width) / width)
    waves: Tensor = torch.sin(torch.arange(length)[:, None] * rates + torch.arange(width) % 2 * torch.pi / 2)
    return waves


def _causal(length: int) -> Tensor:
    return torch.full((length, length), float("-inf")).triu_(1)


def read_description(path: Path, what: str) -> dict[str, Any]:
    """The JSON object of a network's folder; `what` names the network in the error."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{path}: expected the description of {what}, found {error}; fetch the folder where there is a network"
        ) from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The folder's safetensors files; pickled weights are never read."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        others = [p.name for p in sorted(folder.glob("*")) if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        raise TrainingError(
            f"{folder}: expected {stem} weights as *.safetensors, found {others or 'none'}; pickles are not read, convert them"
        )
    return found


def folder_digest(folder: Path) -> str:
    """A digest of names and contents of the folder's own files."""
    parts = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        with path.open("rb") as file:
            parts.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return digest("folder/v1", *parts)
