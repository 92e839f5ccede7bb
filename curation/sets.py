"""Named training sets: what enters them, their buckets and their mix. `conf/sets/` has the values.

A clip must be large and long enough, then meet the set's needs in their order, which is that of the paper's funnel.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from manifests.records import Clip

FRAMES_PER_LATENT = 8
"""Frames that one latent frame stands for."""

_OPS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationRow:
    """Clips of min_s <= duration < max_s seconds (null: no end) give n_frames at min_fps to max_fps; sound its middle min_s seconds."""

    min_s: float
    max_s: float | None = None
    n_frames: int | None = None
    min_fps: int | None = None
    max_fps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a clip's measure must be to enter a set; `unmeasured` says what becomes of clips where it was not run."""

    measure: str
    op: str
    threshold: float
    unmeasured: Literal["reject", "accept"] = "reject"

    def __post_init__(self) -> None:
        if self.measure not in Clip.__dataclass_fields__:
            raise ValueError(f"need on {self.measure}: expected a column of clips")
        if self.op not in _OPS:
            raise ValueError(f"need on {self.measure}: op is {self.op!r}, expected one of {', '.join(_OPS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfig:
    """A named training set: what enters it, and its buckets. Sizes in pixels. The first row of `durations` that fits a clip is taken."""

    name: str
    kind: Literal["video", "image", "audio"]
    latents: Literal["tae", "frames", "audio"] = "tae"  # what tokens are made of: 8 frames together, each frame, or the sound alone
    min_side_px: int = 0
    area_side_px: int | None = None  # pictures have about the area of a square of this side
    short_side_px: int | None = None  # or this short side
    aspects: tuple[str, ...] = ("16:9", "4:3", "1:1", "3:4", "9:16")  # 4:3, 1:1 and 3:4 are ours
    max_crop_share: float = 0.3  # of the picture that may be cut away to reach an aspect; ours: lets 2.39:1 films in
    durations: tuple[DurationRow, ...] = ()
    landscape_share: float | None = None  # of landscape among landscape and portrait; null: as found
    people_share: float | None = None  # of clips with people among those where it was measured, at least; null: as found
    needs: tuple[Need, ...] = ()  # in the order of the funnel
    picked: bool = False  # takes only clips that people chose for it (`dailies pick`): unknown is no yes
    rank: int | None = None  # of sets of a kind the highest takes a clip; null: min_side_px

    def __post_init__(self) -> None:
        if self.kind not in ("video", "image", "audio"):
            raise ValueError(f"set {self.name}: kind is {self.kind!r}, expected video, image or audio")
        if self.kind != "audio" and (self.area_side_px is None) == (self.short_side_px is None):
            raise ValueError(
                f"set {self.name}: expected one of area_side_px and short_side_px, found {self.area_side_px}, {self.short_side_px}"
            )
        if self.landscape_share is not None and not 0 < self.landscape_share < 1:
            raise ValueError(f"set {self.name}: landscape_share is {self.landscape_share}, expected between 0 and 1, or null")
        if self.people_share is not None and not 0 < self.people_share < 1:
            raise ValueError(f"set {self.name}: people_share is {self.people_share}, expected between 0 and 1, or null")
        if (self.kind == "image") == bool(self.durations):
            raise ValueError(f"set {self.name}: durations expected for video and audio and for no image, found {len(self.durations)} rows")
        for aspect in self.aspects:
            parts(aspect)
        for row in self.durations:
            _check_row(self, row)

    @property
    def strictness(self) -> tuple[int, str]:
        """Sorts the strictest set first."""
        return -(self.min_side_px if self.rank is None else self.rank), self.name

    @property
    def shape(self) -> "SetConfig":
        """The set without what only decides which clips enter it: what an encoded sample depends on."""
        return replace(self, landscape_share=None, people_share=None, needs=(), picked=False, rank=None)


def refusal(clip: Any, needs: Sequence[Need]) -> str | None:
    """The first need that the clip does not meet, as the measure's name, `<measure> not_run` where it was not measured; null when it meets all."""
    for need in needs:
        value = getattr(clip, need.measure)
        if value is None:
            if need.unmeasured == "reject":
                return f"{need.measure} not_run"
        elif not _OPS[need.op](value, need.threshold):
            return need.measure
    return None


def pick_of(picks: str | None, set_name: str) -> bool | None:
    """What people said of a clip and a set, from the clip's column `picks`; null where nobody said anything."""
    said = dict(entry.split("=") for entry in picks.split(",")) if picks else {}
    return {"yes": True, "no": False}[said[set_name]] if set_name in said else None


def refused_by_people(clip: Any, cfg: SetConfig) -> str | None:
    """Why the set does not take the clip though it meets its needs: `picked` for a no, `picked not_run` when nobody was asked; else null."""
    said = pick_of(clip.picks, cfg.name) if cfg.picked else True
    return None if said else "picked not_run" if said is None else "picked"


def find_unmeasured(table: pa.Table, sets: Sequence[SetConfig]) -> list[str]:
    """What no clip can meet because it was measured on none, in words, by set and need; the table is the input of `assign_sets`."""
    found = []
    for cfg in sorted(sets, key=lambda s: s.name):
        own = table.filter(pc.equal(table["kind"], cfg.kind))
        for unmeasured, end in (("reject", "so it takes none"), ("accept", "so it takes them unseen")):
            missing = [n for n in cfg.needs if n.unmeasured == unmeasured and own.num_rows and own[n.measure].null_count == own.num_rows]
            if missing:
                wants = " and ".join(f"{n.measure} {n.op} {n.threshold:g}" for n in missing)
                found.append(f"set {cfg.name} wants {wants}; measured on none of {own.num_rows} {cfg.kind} clips, {end}")
        if cfg.picked and not any(pick_of(picks, cfg.name) for picks in own["picks"].unique().to_pylist()):
            found.append(f"set {cfg.name} takes what people chose; none of {own.num_rows} {cfg.kind} clips was, so it takes none")
    return found


def _check_row(cfg: SetConfig, row: DurationRow) -> None:
    said = f"set {cfg.name}: duration row {row.min_s} to {row.max_s} s"
    if row.min_s <= 0 or (row.max_s is not None and row.max_s <= row.min_s):
        raise ValueError(f"{said}: expected 0 < min_s < max_s")
    together = 1 if cfg.latents == "frames" else FRAMES_PER_LATENT
    if cfg.kind == "video" and (row.n_frames is None or row.n_frames < 1 or row.n_frames % together):
        raise ValueError(f"{said}: n_frames is {row.n_frames}, expected a multiple of {together}")
    if row.min_fps is not None and row.max_fps is not None and not 1 <= row.min_fps <= row.max_fps:
        raise ValueError(f"{said}: expected 1 <= min_fps <= max_fps, found {row.min_fps}, {row.max_fps}")


def parts(aspect: str) -> tuple[int, int]:
    """Across and down of an aspect such as 16:9."""
    across, colon, down = aspect.partition(":")
    if not (colon and across.isdecimal() and down.isdecimal() and int(across) and int(down)):
        raise ValueError(f"aspect is {aspect!r}, expected two whole numbers such as 16:9")
    return int(across), int(down)
