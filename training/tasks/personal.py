"""Training on a person: the same flow, given a picture of whom the clip shows (Movie Gen, Personalized Movie Gen Video).

Three stages of one task. I: short clips, pictures of the same clip, the tower frozen and the transformer trained; II: the same on long
clips; III: pictures of other clips of the same person, the tower trained too, so that a face is understood and not pasted. The paper's
tuning takes pictures of the clip and of others 1 : 1. How long clips are, whose the pictures are and what trains is configuration.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from training.data.batch import Batch
from training.errors import TrainingError
from training.identity import PersonalConfig
from training.models.transformer import IDENTITY, Block, inherit, initialise
from training.models.vision import PersonalTransformer, TowerBlock, initialise_tower, load_tower, tower_forward
from training.tasks.text_to_video import Asked, Key, TextToVideoTask

_TOWER = "tower."


class PersonalTask(TextToVideoTask):
    """The stages `personal_1`, `personal_2`, `personal_3` and `personal_sft`. What is asked under is a picture, (B, 3, R, R) in [-1, 1]."""

    blocks: tuple[type[nn.Module], ...] = (Block, TowerBlock)

    kind = "personal"

    @cached_property
    def _personal(self) -> PersonalConfig:
        return cast(PersonalConfig, self._config.personal)

    def module(self, drawn: bool = True) -> PersonalTransformer:
        """Transformer and tower: with their parent's weights, the tower with its public ones or drawn by key where the parent has none."""
        personal = self._personal
        try:
            with torch.device("meta"):
                learns = {"train_tower": personal.train_tower, "train_backbone": personal.train_backbone}
                model = PersonalTransformer(self._config.model, personal.tower, **learns)
            model = model.to_empty(device="cpu")
            if not drawn:
                return model
            initialise(model, self._seed, self._parent or ())
            initialise_tower(model.tower, self._seed)
            parent = dict(self._parent or {})
            seen = {name.removeprefix(_TOWER): value for name, value in parent.items() if name.startswith(_TOWER)}
            if not seen and personal.weights:
                seen = load_tower(Path(personal.weights), personal.tower)
            if seen:
                model.tower.load_state_dict(seen, strict=True)
            if parent:
                inherit(model, parent | {f"{_TOWER}{name}": value for name, value in model.tower.state_dict().items()}, self._config.space)
        except (KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(f"{self.name}: expected a parent of the same sizes but for positions, found {str(error)[:300]}") from error
        return model

    def asked(self, pixels: Tensor, clips: Sequence[str], keys: Sequence[Key], batch: Batch | None) -> Asked:
        """What a text-to-video stage asks, and whom to show."""
        pictures = self.beside(batch, clips).get("reference")
        if pictures is None:
            raise TrainingError(f"{self.name}: expected a picture beside each clip, found none; set data.reference_px")
        asked = super().asked(pixels, clips, keys, batch)
        return asked._replace(identity=picture(pictures.to(pixels.device)))

    def flops(self, shape: tuple[int, int, int, int, int], encoded: bool = False) -> int:
        """Those of a generator, of which the person's tokens are a part, and of the tower: forward, and backward where it is trained."""
        return super().flops(shape, encoded) + (3 if self._personal.train_tower else 1) * tower_forward(self._personal.tower, shape[0])

    def text_lengths(self) -> dict[str, int]:
        """Tokens a prompt of each encoder, and those of a picture."""
        return {**super().text_lengths(), IDENTITY: self._personal.tower.tokens}

    def _inputs(self, asked: Asked, dtype: torch.dtype) -> tuple[Any, ...]:
        """The pictures go into the model as they are: its tower reads them, as it may be trained."""
        inputs = super()._inputs(asked._replace(identity=None), dtype)
        return *inputs, None if asked.identity is None else asked.identity.to(dtype)


def picture(values: Tensor) -> Tensor:
    """Pictures in [-1, 1], float32, of bytes from 0 to 255."""
    return values.float() / 127.5 - 1.0
