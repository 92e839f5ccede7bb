"""Whose person a stage of personalisation is shown, and which parts of its model train (Movie Gen, Personalized Movie Gen Video)."""

from dataclasses import dataclass, field

from training.models.vision import TowerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalConfig:
    """What a stage of personalisation trains. Which pictures it is shown, paired or of another clip, is `data.cross_share`."""

    tower: TowerConfig = field(default_factory=TowerConfig)
    train_tower: bool = False
    """Whether the tower learns too; in the paper's first two stages it does not. Its projection to the model's width always does."""
    train_backbone: bool = True
    """Whether the transformer learns; its projection of a person's tokens does in any case."""
    weights: str = ""
    """Folder with the tower's public weights: open_clip_config.json and *.safetensors; '' for the parent's or, without any, keyed draws."""
