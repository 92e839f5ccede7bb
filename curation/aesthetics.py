"""Aesthetic score and image embedding of the middle key frame. Batch: one `AestheticScore` a clip.

Movie Gen scores the clip's middle frame with the public LAION predictor and keeps 4.0 and more; averaging several frames did not help
(Data, three filter stages). Without weights nothing is scored: the score is null and rules on it say "not run".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.adapters.open_clip import OpenClip, OpenClipConfig
from curation.embeddings import Embedding
from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_jpeg
from manifests.records import Clip

VERSION = "2"
"""Version of how pictures are chosen and scored; which weights they are is part of the settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AestheticScore:
    """The aesthetic column of a clip and, for the vectors table, the embedding it was scored on. Null = not run or not measured."""

    clip_id: str
    aesthetic: float | None = None
    embedding: Embedding | None = None
    error_code: str | None = None
    error_detail: str | None = None


class ScoreAesthetics:
    """Embeds and scores the middle key frame of each clip. Loads the weights once; does nothing when the config names none."""

    def __init__(self, cfg: OpenClipConfig) -> None:
        self.network = None if cfg.weights is None else OpenClip(cfg)

    def __call__(self, batch: Sequence[tuple[Clip, list[KeyFrame]]]) -> list[AestheticScore]:
        """One score a clip, in order. Sound and a stage without weights give null scores, without an error."""
        if self.network is None:
            return [AestheticScore(clip_id=clip.clip_id) for clip, _ in batch]
        read = [_middle_picture(clip, frames) for clip, frames in batch]
        scores = iter(self._score([(s.clip_id, picture) for s, picture in read if picture is not None]))
        return [empty if picture is None else next(scores) for empty, picture in read]

    def _score(self, pictures: list[tuple[str, Picture]]) -> list[AestheticScore]:
        if self.network is None or not pictures:
            return []
        vectors = self.network.embed([picture for _, picture in pictures])
        rated = self.network.rate(vectors)
        ratings: list[float | None] = [None] * len(pictures) if rated is None else list(rated)
        return [
            self._found(self.network.name, clip_id, vector, rating)
            for (clip_id, _), vector, rating in zip(pictures, vectors, ratings, strict=True)
        ]

    def _found(self, model: str, clip_id: str, vector: np.ndarray, rating: float | None) -> AestheticScore:
        """The score of a clip; an error of the clip where the network's answer is no number."""
        if not np.isfinite(vector).all() or (rating is not None and not np.isfinite(rating)):
            detail = f"clip {clip_id}: open_clip {model}: expected a finite embedding and score, found others"
            return AestheticScore(clip_id=clip_id, error_code="model_failed", error_detail=detail)
        embedding = Embedding(clip_id=clip_id, model=model, vector=[float(x) for x in vector])
        return AestheticScore(clip_id=clip_id, aesthetic=rating, embedding=embedding)


def middle_frame(frames: Sequence[KeyFrame], clip: Clip) -> KeyFrame:
    """The key frame nearest to the middle of the clip in time; the earlier of two."""
    middle = (clip.start_us + clip.end_us) // 2
    return min(frames, key=lambda f: (abs(f.pts_us - middle), f.pts_us))


def _middle_picture(clip: Clip, frames: list[KeyFrame]) -> tuple[AestheticScore, Picture | None]:
    """The picture to score, or None with the record that says why there is none."""
    empty = AestheticScore(clip_id=clip.clip_id)
    if clip.kind == "audio":
        return empty, None
    try:
        if not frames:
            raise KeyFrameError(f"clip {clip.clip_id}: expected at least one key frame, found none")
        return empty, decode_jpeg(middle_frame(frames, clip).jpeg)
    except KeyFrameError as e:
        return AestheticScore(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=f"clip {clip.clip_id}: {e}"), None
