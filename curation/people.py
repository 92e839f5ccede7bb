"""People, faces, and whether it is one person throughout, on a clip's key frames. Batch: equal-length lists, one `PeopleScore` a clip.

Movie Gen's personalisation data (Data for personalisation) are clips with exactly one face in each frame, a frame a second, where ArcFace
vectors of consecutive frames agree by a cosine of more than 0.5; 60 % of its strictest set must show people. Each network runs only
where its weights are given; the columns of the others stay null.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from curation.adapters.face_detector import FaceDetector, FaceDetectorConfig
from curation.adapters.face_identity import FaceIdentity, IdentityConfig
from curation.adapters.person_detector import PersonDetector, PersonDetectorConfig
from curation.adapters.weights import AnswerError, WeightsError
from curation.faces import Found, align
from curation.keyframes import KeyFrame, KeyFrameError, Picture, decode_all, spread
from manifests.records import Clip

VERSION = "1"
"""Version of how the networks are fed and their answers read; which weights they are is part of the settings."""

COLUMNS = ("n_faces", "face_share", "n_people", "person_share", "has_people", "single_face", "identity_agreement")

VECTORS = (
    pa.field("identity_model", pa.string()),
    pa.field("identity", pa.list_(pa.list_(pa.float32()))),
    pa.field("identity_frame", pa.list_(pa.int32())),
    pa.field("identity_pts_us", pa.list_(pa.int64())),
    pa.field("identity_box", pa.list_(pa.list_(pa.float32()))),
)
"""The vectors of a clip beside its clip_id, as `PeopleScore` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleConfig:
    """The three networks on people, and which key frames they see."""

    faces: FaceDetectorConfig = field(default_factory=FaceDetectorConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    persons: PersonDetectorConfig = field(default_factory=PersonDetectorConfig)
    max_frames: int = 16  # of a clip, spread over it: a frame a second of the longest clips, as the paper looks
    min_identity_px: int = 24  # ours: a smaller face has nothing that a crop of 112 px could show

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"people: expected max_frames of at least 1, found {self.max_frames}")
        if self.identity.weights is not None and self.faces.weights is None:
            raise ValueError("people: expected faces.weights beside identity.weights, found none: a face is found before it is named")

    @property
    def wanted(self) -> bool:
        """Whether any network has weights."""
        return self.faces.weights is not None or self.persons.weights is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleScore:
    """The people columns of a clip. Null without a picture, without the network, or where `error_code` says why.

    For later sets: `identity[i]` is the vector (length 1) of the largest face in key frame `identity_frame[i]`, shown at
    `identity_pts_us[i]`, whose box is `identity_box[i]`: x, y, width, height in shares of the picture. These are biometric data.
    """

    clip_id: str
    n_faces: int | None = None
    face_share: float | None = None
    n_people: int | None = None
    person_share: float | None = None
    has_people: float | None = None
    single_face: float | None = None
    identity_agreement: float | None = None
    identity_model: str | None = None
    identity: list[list[float]] | None = None
    identity_frame: list[int] | None = None
    identity_pts_us: list[int] | None = None
    identity_box: list[list[float]] | None = None
    error_code: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Face:
    """The largest face of a key frame: its vector and its box in shares."""

    frame: KeyFrame
    vector: list[float]
    box: list[float]


class FindPeople:
    """Looks for people in each clip. Loads the networks that have weights once. Raises WeightsError where a file is not what it should be."""

    def __init__(self, cfg: PeopleConfig) -> None:
        self.cfg = cfg
        self.faces = FaceDetector(cfg.faces) if cfg.faces.weights is not None else None
        self.persons = PersonDetector(cfg.persons) if cfg.persons.weights is not None else None
        self.identity = FaceIdentity(cfg.identity) if cfg.identity.weights is not None else None

    def __call__(self, batch: Sequence[tuple[Clip, Sequence[KeyFrame]]]) -> list[PeopleScore]:
        """One score a clip, in order. Sound and a stage without weights give null scores, without an error."""
        return [self._look(clip, frames) for clip, frames in batch]

    def _look(self, clip: Clip, frames: Sequence[KeyFrame]) -> PeopleScore:
        if clip.kind == "audio" or not self.cfg.wanted:
            return PeopleScore(clip_id=clip.clip_id)
        chosen = spread(frames, self.cfg.max_frames)
        try:
            pictures = decode_all(clip.clip_id, chosen)
        except KeyFrameError as e:
            return PeopleScore(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        try:
            faces = None if self.faces is None else [self.faces.find(p) for p in pictures]
            people = None if self.persons is None else [self.persons.find(p) for p in pictures]
            named = None if self.identity is None or faces is None else self._named(chosen, pictures, faces)
        except AnswerError as e:
            return PeopleScore(clip_id=clip.clip_id, error_code="model_failed", error_detail=f"clip {clip.clip_id}: {e}")
        return PeopleScore(
            clip_id=clip.clip_id,
            n_faces=_most(faces),
            face_share=_share(faces, pictures),
            n_people=_most(people),
            person_share=_share(people, pictures),
            has_people=has_people(_most(people), _most(faces)),
            single_face=None if faces is None else float(all(len(f) == 1 for f in faces)),
            identity_agreement=None if named is None else agreement([n.vector for n in named]),
            identity_model=None if self.identity is None else self.identity.name,
            identity=None if named is None else [n.vector for n in named],
            identity_frame=None if named is None else [n.frame.index for n in named],
            identity_pts_us=None if named is None else [n.frame.pts_us for n in named],
            identity_box=None if named is None else [n.box for n in named],
        )

    def _named(self, frames: Sequence[KeyFrame], pictures: Sequence[Picture], faces: Sequence[Found]) -> list[_Face]:
        """The largest face of each frame that has one, large enough and with landmarks that a face can have."""
        if self.identity is None:
            return []
        named = []
        for frame, picture, found in zip(frames, pictures, faces, strict=True):
            if found.points is None:
                raise WeightsError("people: expected a face detector with landmarks beside identity.weights, found one without")
            if not len(found):
                continue
            i = found.largest()
            box = found.boxes[i]
            crop = align(picture, found.points[i]) if min(box[2] - box[0], box[3] - box[1]) >= self.cfg.min_identity_px else None
            if crop is not None:
                named.append(_Face(frame, self.identity.embed([crop])[0].tolist(), _shares(box, picture)))
        return named


def has_people(n_people: int | None, n_faces: int | None) -> float | None:
    """1 where people or faces were found, 0 where a person detector found none. Without one, no face does not mean nobody: None."""
    if (n_people or 0) + (n_faces or 0) > 0:
        return 1.0
    return None if n_people is None else 0.0


def agreement(vectors: Sequence[Sequence[float]]) -> float | None:
    """The smallest cosine between consecutive vectors of length 1; None for fewer than two."""
    if len(vectors) < 2:
        return None
    return float(min(np.dot(a, b) for a, b in itertools.pairwise(np.asarray(vectors, np.float64))))


def _most(found: Sequence[Found] | None) -> int | None:
    return None if found is None else max(len(f) for f in found)


def _share(found: Sequence[Found] | None, pictures: Sequence[Picture]) -> float | None:
    """The largest share of a picture that one box covers."""
    if found is None:
        return None
    return max(float(f.areas().max()) / (p.shape[0] * p.shape[1]) if len(f) else 0.0 for f, p in zip(found, pictures, strict=True))


def _shares(box: np.ndarray, picture: Picture) -> list[float]:
    """x, y, width, height in shares of the picture."""
    height, width = picture.shape[:2]
    left, top, right, bottom = (float(v) for v in box)
    return [left / width, top / height, (right - left) / width, (bottom - top) / height]
