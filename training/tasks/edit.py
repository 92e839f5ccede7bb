"""Training the editor: the same flow, given the source's latents beside the noise, the instruction as its prompt, and the edit's task.

Three stages of one task (Movie Gen Edit). I: edits of pictures, each one frame at a random place in time, as an editor of pictures that has
only seen frame 0 fails on videos; between them text to video, whose source is black. II: pictures and edits animated by one motion, and
objects to be marked; III: edits that a model made of real clips, to be undone. Which batches are pictures and which videos, 5 : 1 in stage
I, is the plan's matter, by step, the same on all ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from training import edits, flops, flow, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.edits import NONE, EditConfig, Edited, task_of
from training.tasks.text_to_video import Asked, Key, TextToVideoTask, repeated


class EditTask(TextToVideoTask):
    """The stages `edit_1`, `edit_2` and `edit_3`."""

    kind = "edit"

    @cached_property
    def _edit(self) -> EditConfig:
        return cast(EditConfig, self._config.edit)

    @cached_property
    def _black(self) -> dict[tuple[int, ...], Tensor]:
        return {}

    def asked(self, pixels: Tensor, clips: Sequence[str], keys: Sequence[Key], batch: Batch | None) -> Asked:
        """Targets under their instructions, given their sources; pictures stand at a place in time of their own."""
        beside = self.beside(batch, clips)
        if pixels.shape[2] > 1 and self._as_pictures(batch, keys[0]):
            pixels, beside = pixels[:, :, :1], {}
        drawn = keys
        if self._edit.variety and batch is not None:
            drawn = [(*key[:-1], pass_no % self._edit.variety) for key, pass_no in zip(keys, batch.epochs, strict=True)]
        made = [
            self._of(x.float(), clip, key, {n: v[i] for n, v in beside.items()})
            for i, (x, clip, key) in enumerate(zip(pixels, clips, drawn, strict=True))
        ]
        x_1 = self._codec.encode(torch.stack([e.target for e in made]).to(pixels.dtype))
        task = torch.tensor([e.task for e in made], device=pixels.device)
        if all(e.task == NONE for e in made):
            context = self._black_latents(pixels[:1]).expand_as(x_1)
        else:
            context = self._codec.encode(torch.stack([e.source for e in made]).to(pixels.dtype))
        start = None
        if pixels.shape[2] == 1:
            last = self._config.model.max_t - x_1.shape[2]
            start = torch.tensor([keyed.integer(0, last + 1, *k, "place in time") for k in keys], device=pixels.device)
        return Asked(x_1, [e.instruction for e in made], context, None, task, start)

    def sample(self, model: Callable[..., Any], sample: Sample, pixels: Tensor) -> Tensor:
        """The edit that a held-out clip is measured on, made from noise of its own; of an animated picture its first frame,
        and of a video that was taken as a picture that picture for as long."""
        asked = self.asked(pixels, [sample.clip_id], [("validate/v1", sample.clip_id)], None)
        x_0 = keyed.normal(tuple(asked.x_1.shape), "sample/v1", sample.clip_id).to(pixels.device)
        frames = min(pixels.shape[2] if pixels.shape[2] > 1 else self._edit.frames, 8 * asked.x_1.shape[2])
        made = self._codec.decode(self.latents(model, x_0, asked, pixels.dtype).to(pixels.dtype), frames)[:, :, : pixels.shape[2]]
        last = made[:, :, -1:].expand(-1, -1, pixels.shape[2] - made.shape[2], -1, -1)
        return torch.cat([made, last], 2)

    def edit(
        self, model: Callable[..., Any], pixels: Tensor, instructions: Sequence[str], *key: object, tasks: Sequence[int] | None = None
    ) -> Tensor:
        """Pixels (B, 3, T, H, W) in [-1, 1] of the clips, edited as instructed, from noise of the key; a task that is not given is that
        of the instruction's words."""
        context = self._codec.encode(pixels)
        numbers = [task_of(i) for i in instructions] if tasks is None else tasks
        asked = Asked(context, list(instructions), context, None, torch.tensor(numbers, device=pixels.device))
        x_0 = keyed.normal(tuple(context.shape), *key).to(pixels.device)
        return self._codec.decode(self.latents(model, x_0, asked, pixels.dtype).to(pixels.dtype), pixels.shape[2])

    def guided_velocity(self, model: Callable[..., Any], asked: Asked, dtype: torch.dtype) -> flow.Velocity:
        """dx/dt guided away from no instruction, and with `source_guidance` from no source: u + g_s (s - u) + g (c - s), where u has
        neither, s the source, c both."""
        scale = self._edit.source_guidance
        if scale == 1.0 or asked.context is None or asked.task is None:
            return super().guided_velocity(model, asked, dtype)
        n, prompts, thrice = len(asked.x_1), list(asked.prompts), repeated(asked, 3)
        _, _, frames, height, width = asked.context.shape
        shown = torch.empty(1, 3, 8 * frames, 8 * height, 8 * width, device=asked.context.device, dtype=dtype)
        black = self._black_latents(shown).expand_as(asked.context)
        context, task = (
            torch.cat([asked.context, asked.context, black]),
            torch.cat([asked.task, asked.task, torch.full_like(asked.task, NONE)]),
        )
        inputs = self._inputs(thrice._replace(prompts=[*prompts, *[""] * 2 * n], context=context, task=task), dtype)
        guidance = self._config.sampler.guidance

        def dx_dt(x: Tensor, t: float) -> Tensor:
            v = model(torch.cat([x] * 3).to(dtype), torch.full((3 * n,), t, device=x.device), *inputs).float()
            both, source, none = v.chunk(3)
            guided: Tensor = none + scale * (source - none) + guidance * (both - source)
            return guided

        return dx_dt

    def tokens(self, shape: tuple[int, int, int, int, int]) -> int:
        """Tokens of the transformer, those of an animated picture too."""
        return super().tokens(self._moving(shape))

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Those of a generator; an animated picture has its frames, and the source is encoded too."""
        b, _, frames, height, width = moving = self._moving(shape)
        return super().flops(moving, encoded) + b * flops.tae_encode(self._codec.tae.config, frames, height, width)

    def _as_pictures(self, batch: Batch | None, key: Key) -> bool:
        """Whether videos give their first frames: by step, the same on all ranks; of held-out clips by clip."""
        cycle = self._edit.stills_of
        return bool(cycle) and (keyed.integer(0, cycle, *key, "still") if batch is None else batch.step % cycle) != cycle - 1

    def _moving(self, shape: tuple[int, int, int, int, int]) -> tuple[int, int, int, int, int]:
        b, channels, frames, height, width = shape
        return b, channels, self._edit.frames if frames == 1 else frames, height, width

    def _of(self, x: Tensor, clip: str, key: Key, beside: Mapping[str, Tensor]) -> Edited:
        """What becomes of one clip (3, T, H, W)."""
        if "has_source" in beside and bool(beside["has_source"].any()):
            source = beside["source"].to(x.device).float() / 127.5 - 1.0
            said = edits.without_rate(self._prompt(clip))
            made = Edited(source, x, said, task_of(said))
            return edits.animate(made, self._edit, key) if x.shape[1] == 1 and self._edit.frames > 1 else made
        if x.shape[1] > 1:
            return Edited(-torch.ones_like(x), x, self._prompt(clip), NONE)
        made = self._segment(x, key, beside) if flow.dropped(self._edit.segment_share, *key, "segment") else edits.edit(x, key)
        return edits.animate(made, self._edit, key) if self._edit.frames > 1 else made

    def _segment(self, x: Tensor, key: Key, beside: Mapping[str, Tensor]) -> Edited:
        mask = beside["mask"].to(x.device) > 127 if "mask" in beside else None
        return edits.segment(x, key, mask if mask is not None and bool(mask.any()) else None)

    def _black_latents(self, like_13THW: Tensor) -> Tensor:
        """Latents (1, C, T/8, H/8, W/8) of black frames of this shape; made once, as every batch of text to video needs them."""
        shape = tuple(like_13THW.shape)
        if shape not in self._black:
            self._black[shape] = self._codec.encode(torch.full_like(like_13THW, -1.0))
        return self._black[shape]
