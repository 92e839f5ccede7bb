"""What people do in a clip: zero-shot retrieval with a taxonomy of human actions and expressions. Batch: one `ActionScore` a clip.

Movie Gen (Data, human taxonomy) finds clips of people by 600 verbs and expressions through a joint video-text model, and lets those found
keep their frequency when concepts are resampled. Ours (`action_taxonomy.txt`) has over twice as many, written for this project.

A cosine alone says little: one model's 0.25 is another's 0.1, and every clip has a nearest verb. So each clip is compared with descriptions
without people, too; `action_margin` is by how much its action is nearer than the nearest of those. Which clips count as found is decided
afterwards (`measure_human_action`), so that a changed threshold runs no network.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.adapters.video_text import VideoText, VideoTextConfig, load_video_text
from curation.adapters.weights import AnswerError
from curation.faces import Floats
from curation.keyframes import KeyFrame, KeyFrameError, decode_all, spread
from manifests.files import write_atomic
from manifests.records import Clip

VERSION = "1"
"""Version of the taxonomy and of how the model is asked; which weights it has is part of the settings."""

COLUMNS = ("action", "action_score", "action_margin")

VECTORS = (
    pa.field("action_top", pa.list_(pa.string())),
    pa.field("action_top_score", pa.list_(pa.float32())),
    pa.field("video_text_model", pa.string()),
    pa.field("video_text", pa.list_(pa.float32())),
)
"""The vectors of a clip beside its clip_id, as `ActionScore` says."""

TAXONOMY = Path(__file__).with_name("action_taxonomy.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsConfig:
    """The model and the sentences it is asked with. The sentences are ours."""

    model: VideoTextConfig = field(default_factory=VideoTextConfig)
    prompts: tuple[str, ...] = ("a person {}", "a video of a person {}")  # an action's vector is the mean over them
    background: tuple[str, ...] = (
        "a landscape without people",
        "an empty room",
        "an empty street",
        "a building",
        "an animal",
        "a plant",
        "a vehicle",
        "an object on a table",
        "food on a plate",
        "the sky",
        "a cartoon",
        "a computer screen",
        "text on a plain background",
        "an abstract pattern",
    )
    top_k: int = 5
    cache: str | None = None  # a folder that keeps the sentences' vectors between processes; not a part of what they are

    def __post_init__(self) -> None:
        if not self.prompts or not self.background or any(p.count("{}") != 1 for p in self.prompts):
            raise ValueError(
                f"actions: expected prompts with one {{}} each and some background, found {self.prompts} and {self.background}"
            )
        if self.top_k < 1:
            raise ValueError(f"actions: expected top_k of at least 1, found {self.top_k}")

    @property
    def wanted(self) -> bool:
        """Whether the model has weights."""
        return self.model.wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanActionConfig:
    """From where on a clip counts as found through the taxonomy. Ours, not measured: the paper names none, and each model has its own scale."""

    min_score: float = 0.2  # CLIP's cosines of a fitting sentence are about 0.2 to 0.35
    min_margin: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionScore:
    """The action columns of a clip. Null without a picture, without the model, or where `error_code` says why.

    For later sets: the `top_k` nearest actions with their cosines, and the clip's own vector (length 1) with the model it comes from.
    """

    clip_id: str
    action: str | None = None
    action_score: float | None = None
    action_margin: float | None = None
    action_top: list[str] | None = None
    action_top_score: list[float] | None = None
    video_text_model: str | None = None
    video_text: list[float] | None = None
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """A line of the taxonomy: its group, and a phrase that stands after 'a person'."""

    group: str
    phrase: str


class FindActions:
    """Names what people do in each clip. Loads the model and the sentences' vectors once; does nothing when no weights are given."""

    def __init__(self, cfg: ActionsConfig) -> None:
        self.cfg = cfg
        self.model = load_video_text(cfg.model) if cfg.wanted else None
        self._vectors = None if self.model is None else sentence_vectors(self.model, cfg)
        self._phrases = [a.phrase for a in taxonomy()]

    def __call__(self, batch: Sequence[tuple[Clip, Sequence[KeyFrame]]]) -> list[ActionScore]:
        """One score a clip, in order. Sound and a stage without weights give null scores, without an error."""
        return [self._score(clip, frames) for clip, frames in batch]

    def _score(self, clip: Clip, frames: Sequence[KeyFrame]) -> ActionScore:
        if clip.kind == "audio" or self.model is None or self._vectors is None:
            return ActionScore(clip_id=clip.clip_id)
        try:
            pictures = decode_all(clip.clip_id, spread(frames, self.cfg.model.frames))
        except KeyFrameError as e:
            return ActionScore(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        try:
            seen = self.model.embed_video(pictures)
        except AnswerError as e:
            return ActionScore(clip_id=clip.clip_id, error_code="model_failed", error_detail=f"clip {clip.clip_id}: {e}")
        cosines = self._vectors @ seen
        actions, background = cosines[: len(self._phrases)], cosines[len(self._phrases) :]
        best = np.argsort(-actions, kind="stable")[: self.cfg.top_k]
        return ActionScore(
            clip_id=clip.clip_id,
            action=self._phrases[best[0]],
            action_score=float(actions[best[0]]),
            action_margin=float(actions[best[0]] - background.max()),
            action_top=[self._phrases[i] for i in best],
            action_top_score=actions[best].tolist(),
            video_text_model=self.model.name,
            video_text=seen.tolist(),
        )


@lru_cache(maxsize=1)
def taxonomy() -> tuple[Action, ...]:
    """The taxonomy in the order of its file: `group<TAB>phrase` a line; lines with # are notes."""
    lines = TAXONOMY.read_text(encoding="utf-8").splitlines()
    return tuple(Action(*line.split("\t")) for line in lines if line and not line.startswith("#"))


def taxonomy_digest() -> str:
    """The first 12 hexadecimal digits of the SHA-256 of all groups and phrases in order."""
    return hashlib.sha256("\n".join(f"{a.group}\t{a.phrase}" for a in taxonomy()).encode()).hexdigest()[:12]


def sentence_vectors(model: VideoText, cfg: ActionsConfig) -> Floats:
    """Vectors [actions + background, d] of length 1: an action's is the mean over the prompts. Computed once for weights, taxonomy and sentences.

    With `cfg.cache` a file keeps them for the next process; it appears complete, by a rename.
    """
    asked = "\n".join([model.name, taxonomy_digest(), *cfg.prompts, "", *cfg.background])
    kept = None if cfg.cache is None else Path(cfg.cache) / f"actions-{hashlib.sha256(asked.encode()).hexdigest()[:24]}.npy"
    if kept is not None and kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False), np.float32)
    phrases = [a.phrase for a in taxonomy()]
    summed = np.sum([model.embed_text([p.format(phrase) for phrase in phrases]) for p in cfg.prompts], axis=0)
    means = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)
    vectors = np.concatenate([means, model.embed_text(cfg.background)]).astype(np.float32)
    if kept is not None:
        data = io.BytesIO()
        np.save(data, vectors, allow_pickle=False)
        write_atomic(kept, data.getbuffer())
    return vectors


def in_human_taxonomy(score: float | None, margin: float | None, cfg: HumanActionConfig) -> bool | None:
    """Whether a clip was found through the taxonomy; None where the model did not run on it."""
    if score is None or margin is None:
        return None
    return score >= cfg.min_score and margin >= cfg.min_margin


def measure_human_action(clip: Clip, cfg: HumanActionConfig) -> dict[str, Any]:
    """The column human_action of a clip from its action columns: 1 found, 0 not, None unknown."""
    found = in_human_taxonomy(clip.action_score, clip.action_margin, cfg)
    return {"human_action": None if found is None else float(found)}
