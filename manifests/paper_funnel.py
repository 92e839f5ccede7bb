"""The funnel of the paper beside ours, on video: Movie Gen, Three filter stages and Threshold table of the strictest (high-resolution) set.

The paper gives shares of its pool after each step (read by one reader; 100 % are videos of 4 s to 120 s), and no number for several
filters that it names. The order of ours is another, so what can be compared is the share that a step keeps of what reaches it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from manifests.comparisons import PaperFunnel, PaperStep
from manifests.funnel import Amount, Funnel, Step
from manifests.query import rows


@dataclass(frozen=True, slots=True)
class _Filter:
    """A filter as the paper has it; `left` is the percentage of its pool after it. `measures` are our columns that stand for it."""

    stage: str
    name: str
    asks: str
    left: float | None
    measures: tuple[str, ...]


PAPER = (
    _Filter("pool", "duration", "4 s to 120 s", 100.0, ("duration_s", "duration_us")),
    _Filter("visual", "size", "width and height ≥ 768 px", 25.0, ("short_side_px",)),
    _Filter("visual", "landscape", "width ≥ height", 7.0, ("mix_keep",)),
    _Filter("visual", "text", "detection × recognition < 0.6", 1.94, ("text_score", "text_unread_score")),
    _Filter("visual", "borders", "no border", 1.87, ("border_share",)),
    _Filter("visual", "shots", "one 12–16 s clip of one scene", 1.78, ("n_clips",)),
    _Filter("visual", "aesthetics", "≥ 4.0 on the middle frame", 1.57, ("aesthetic",)),
    _Filter("visual", "quality", "own small models, not described", None, ("sharpness", "blockiness", "noise", "interlaced")),
    _Filter("visual", "opening", "first seconds of the source dropped", None, ()),
    _Filter("motion", "static", "own classifier, not described", None, ("static_fraction",)),
    _Filter("motion", "amount", "VMAF > 2, 0.5 < vectors < 7 px", 1.32, ("motion", "motion_vector_px")),
    _Filter("motion", "jitter", "< 0.85 shots a second", 1.22, ("shots_per_s",)),
    _Filter("motion", "effects", "own classifier, not described", None, ("slideshow_score", "loop_score", "strobe_per_s", "speed_ramp")),
    _Filter("content", "near-duplicates", "copy-detection cosine < 0.99", 1.15, ("dup_rank",)),
    _Filter("content", "concepts", "sampled at 1/√size", 0.94, ("concept_margin",)),
)
"""In the order of the paper; those without a share stand where its figure of the stages has them."""

LEFT_PERCENT = 0.94
"""What the paper's funnel leaves of its pool."""


def beside(con: duckdb.DuckDBPyConnection, funnels: Sequence[Funnel]) -> PaperFunnel:
    """Each filter of the paper with our rules on the same thing; rules on files count files of every kind that they apply to."""
    steps = [(f.subject, s) for f in funnels if f.subject == "asset" or f.name == "video" for s in f.steps]
    known = {m for f in PAPER for m in f.measures}
    time = rows(
        con,
        """SELECT coalesce((SELECT sum(duration_us) FROM assets WHERE kind = 'video'), 0)::BIGINT AS found,
        coalesce((SELECT sum(end_us - start_us) FROM clips WHERE kind = 'video' AND decision = 'keep'), 0)::BIGINT AS kept""",
    )[0]
    return PaperFunnel(
        steps=tuple(_step(f, before, steps) for f, before in zip(PAPER, _before(), strict=True)),
        ours_only=tuple(dict.fromkeys(s.name for _, s in steps if s.measure not in known)),
        left_percent=LEFT_PERCENT,
        found_us=time["found"],
        kept_us=time["kept"],
    )


def _before() -> list[float | None]:
    """What was left before each filter; None for the first."""
    out: list[float | None] = []
    last: float | None = None
    for f in PAPER:
        out.append(last)
        last = f.left if f.left is not None else last
    return out


def _step(paper: _Filter, before: float | None, steps: Sequence[tuple[str, Step]]) -> PaperStep:
    mine = [(subject, s) for subject, s in steps if s.measure in paper.measures]
    entered, lost = Amount(), Amount()
    for set_name in dict.fromkeys(s.set_name for _, s in mine):
        of_set = [s for _, s in mine if s.set_name == set_name]
        entered += of_set[0].met  # rules of one set follow one another; those of different sets meet different clips
        lost = sum((s.before - s.left for s in of_set), lost)
    return PaperStep(
        stage=paper.stage,
        name=paper.name,
        asks=paper.asks,
        left_percent=paper.left,
        share=None if paper.left is None or before is None else paper.left / before,
        rules=tuple(dict.fromkeys(s.name for _, s in mine)),
        subject=mine[0][0] if mine else "",
        entered=entered,
        survived=entered - lost,
    )
