"""Prompts to padded text tokens, each encoded once: kept by content and weights, never by row.

    <folder>/<encoder>-<16 digits of its key>/<2 digits>/<digest of the prompt>.safetensors

The encoder's key changes with its weights, tokenizer and length, so a cache can be shared by runs and never answers for other weights.
A file that is damaged is made again. Prompts can hold whatever captions hold: `forget_prompts` purges what was made of one.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.files import write_atomic
from manifests.ids import digest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from training.models.text import TextConfig, TextEncoder

IN_MEMORY = 4096
"""Prompts an encoder kept in memory: of 300 tokens of 4096 float32 values each would be 5 MB, so large encoders rely on the disk."""

_IN_MEMORY_BYTES = 1 << 28


class TextCache:
    """The encoders' results for prompts. Several processes may share a folder."""

    def __init__(self, encoders: "Sequence[TextEncoder]", folder: Path | None = None) -> None:
        self.encoders, self._folder = tuple(encoders), folder
        self._memory: dict[str, OrderedDict[str, Tensor]] = {e.name: OrderedDict() for e in self.encoders}

    def batch(self, prompts: Sequence[str]) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
        """Encoder -> tokens (B, L, width), padded with zeros to the longest, and -> mask (B, L), true where there is a token."""
        import torch

        tokens, masks = {}, {}
        for encoder in self.encoders:
            rows = self.get(encoder, prompts)
            lengths = torch.tensor([len(r) for r in rows])
            tokens[encoder.name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            masks[encoder.name] = torch.arange(int(lengths.max())) < lengths[:, None]
        return tokens, masks

    def get(self, encoder: "TextEncoder", prompts: Sequence[str]) -> "list[Tensor]":
        """The encoder's tokens of each prompt; what is not known yet is encoded in one call and kept."""
        memory = self._memory[encoder.name]
        known = {p: found for p in set(prompts) if (found := memory.get(p)) is not None or (found := self._read(encoder, p)) is not None}
        if missing := [p for p in dict.fromkeys(prompts) if p not in known]:
            for prompt, tokens in zip(missing, encoder.encode(missing), strict=True):
                known[prompt] = tokens
                self._write(encoder, prompt, tokens)
        for prompt, tokens in known.items():
            memory[prompt] = tokens
        room = min(IN_MEMORY, max(1, _IN_MEMORY_BYTES // max(1, next(iter(known.values())).nbytes)))
        while len(memory) > room:
            memory.popitem(last=False)
        return [known[p] for p in prompts]

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, each once, that an encoder with weights has no file for."""
        stored = [e for e in self.encoders if e.stored]
        return [p for p in dict.fromkeys(prompts) if any((path := self._path(e, p)) is None or not path.exists() for e in stored)]

    def _path(self, encoder: "TextEncoder", prompt: str) -> Path | None:
        if self._folder is None or not encoder.stored:
            return None
        name = name_of(prompt)
        return self._folder / f"{encoder.name}-{encoder.key[:16]}" / name[:2] / f"{name}.safetensors"

    def _read(self, encoder: "TextEncoder", prompt: str) -> "Tensor | None":
        path = self._path(encoder, prompt)
        if path is None or not path.exists():
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tokens = load(path.read_bytes())["tokens"]
        except (FileNotFoundError, SafetensorError, KeyError):  # taken down just now, cut off or foreign: encoded again
            return None
        return tokens if tokens.ndim == 2 and tokens.shape[1] == encoder.width else None

    def _write(self, encoder: "TextEncoder", prompt: str, tokens: "Tensor") -> None:
        if path := self._path(encoder, prompt):
            from safetensors.torch import save

            write_atomic(path, save({"tokens": tokens.contiguous()}))


def shared_texts(known: "dict[TextConfig, TextCache]", config: "TextConfig", device: "torch.device | str" = "cpu") -> TextCache:
    """The one cache of these settings among `known`: stages that read their prompts alike have one set of encoders in memory."""
    from training.models.text import load_encoders

    if config not in known:
        known[config] = TextCache(load_encoders(config, device))
    return known[config]


def name_of(prompt: str) -> str:
    """What a prompt's files are called."""
    return digest("prompt/v1", prompt)


def forget_prompts(folder: Path, prompts: Iterable[str]) -> int:
    """Nothing made of the prompts is in the folder of a `TextCache`, whatever encoder made it; returns how many files were."""
    return forget_names(folder, map(name_of, prompts))


def forget_names(folder: Path, names: Iterable[str]) -> int:
    """As `forget_prompts`, where only the prompts' names are known."""
    found = [path for name in names for path in folder.glob(f"*/{name[:2]}/{name}.safetensors")]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
