"""How right the borders are: on generated variants of every kind, and on the real media, whose borders were looked up by eye.

`python benchmarks/accuracy_borders.py [MEDIA [FIRST]]` prints the table. Thresholds were chosen on variants below FIRST, on 3000 to 4105 and
on the real media; variants from FIRST on were drawn for the figures. Another FIRST (6000, 8000 …) draws others.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import border_truth
from benchmarks.border_truth import BORDERED, Variant
from benchmarks.figures import Figure, as_table
from curation import media
from curation.borders import BordersConfig, BordersObserver, measure_clip_borders
from curation.probe import probe
from curation.scan import tracks_of
from curation.tracks import Track
from manifests.records import Clip

FIRST, N_VARIANTS = 2000, 560
VERDICT_SHARE = 0.02
"""The rule's threshold on `border_share`."""
CFG = BordersConfig()
TRUTH = Path(__file__).resolve().parent.parent / "tests" / "data" / "border_truth.json"


def figures(folder: Path, first: int = FIRST) -> list[Figure]:
    """Every figure of the borders; `folder` is the test media."""
    return [*_generated(folder, first), *_real(folder)]


def measured(track: Track, width: int, height: int, start_us: int = -(10**9), end_us: int = 10**12) -> dict[str, float | int | None]:
    """The border columns of a clip of the track's asset."""
    clip = Clip(clip_id="", asset_id="", kind="video", start_us=start_us, end_us=end_us, width=width, height=height)
    return measure_clip_borders(clip, {"borders": track}, CFG)


def _generated(folder: Path, first: int) -> list[Figure]:
    found = border_truth.bases(folder)
    verdicts: dict[str, list[bool]] = {}
    sizes: list[bool] = []
    hidden = 0
    for number in range(first, first + N_VARIANTS):
        v = border_truth.variant(number)
        base = border_truth.base_of(v, found)
        shown = border_truth.coded(v, base)
        if v.kind in BORDERED and not border_truth.is_visible(v, base, [f.to_ndarray(format="rgb24") for f in shown] or None):
            hidden += 1
            continue
        got = measured(border_truth.track_of(v, base, shown), v.width, v.height)
        right = got["border_share"] is not None and (got["border_share"] >= VERDICT_SHARE) == (v.share >= VERDICT_SHARE)
        verdicts.setdefault(v.kind, []).append(right)
        if right and v.kind in BORDERED and v.kind != "frame_still":
            sizes.append(is_near(v, got))
    plain = ("letterbox", "pillarbox", "window", "one")
    groups = (
        ("plain bars, any colour", plain),
        ("blurred fills", ("blurred",)),
        ("still graphics around a moving camera", ("frame",)),
        ("still graphics around any picture", ("frame", "frame_still")),
        ("no borders", border_truth.PLAIN),
    )
    out = [
        _share(f"verdict at {VERDICT_SHARE}, {what}", [ok for k in kinds for ok in verdicts.get(k, [])], "variants")
        for what, kinds in groups
    ]
    out.append(_share(f"verdict at {VERDICT_SHARE}, every kind", [ok for v in verdicts.values() for ok in v], "variants"))
    out.append(_share("verdict, all but graphics around a resting camera", [ok for k, v in verdicts.items() if k != "frame_still" for ok in v], f"variants; {hidden} with a border that cannot be seen left out"))  # fmt: skip
    out.append(_share("every side within 2 % of it, where found", sizes, "variants with borders"))
    return out


def is_near(v: Variant, got: dict[str, float | int | None]) -> bool:
    """Whether every side is within 2 % of the picture's (and one px) of what it is."""
    found = [got[f"border_{side}"] for side in ("top", "bottom", "left", "right")]
    full = (v.height, v.height, v.width, v.width)
    return all(isinstance(f, int) and abs(f - s) <= 0.02 * n + 1 for f, s, n in zip(found, v.sides, full, strict=True))


def _real(folder: Path) -> list[Figure]:
    truth = json.loads(TRUTH.read_text())
    verdicts, clip_verdicts, sizes = [], [], []
    for name, sides in truth["sides"].items():
        path = folder / name
        if not path.exists():
            continue
        facts = probe(str(path), media.MediaConfig())
        width, height = facts.width or 0, facts.height or 0
        try:
            (track,) = tracks_of(str(path), [BordersObserver()])
        except media.MediaError:
            continue
        share = 1 - (1 - (sides[0] + sides[1]) / height) * (1 - (sides[2] + sides[3]) / width)
        whole = measured(track, width, height)
        verdicts.append(
            (whole["border_share"] or 0.0) >= VERDICT_SHARE if share >= VERDICT_SHARE else (whole["border_share"] or 0.0) < VERDICT_SHARE
        )
        if share:
            found = np.array([whole[f"border_{side}"] for side in ("top", "bottom", "left", "right")])
            sizes.append(bool((np.abs(found - sides) <= 0.02 * np.array([height, height, width, width]) + 1).all()))
        for start in _starts(track, truth["from_s"].get(name, 0)):
            got = measured(track, width, height, start, start + 4_000_000)["border_share"]
            clip_verdicts.append(got is not None and (got >= VERDICT_SHARE) == (share >= VERDICT_SHARE))
    return [
        _share(f"verdict at {VERDICT_SHARE}, real videos whole", verdicts, "videos"),
        _share(f"verdict at {VERDICT_SHARE}, 4 s clips of real videos", clip_verdicts, "clips"),
        _share("every side within 2 % of it, real videos", sizes, "videos with borders"),
    ]


def _starts(track: Track, from_s: float) -> Iterable[int]:
    first = int(track.pts_us[0] + from_s * 1e6)
    return range(first, int(track.pts_us[-1]) + 1, 4_000_000)


def _share(what: str, right: list[bool], on: str) -> Figure:
    return Figure(subject="borders", what=what, value=float(np.mean(right)) if right else 0.0, target=1.0, on=f"{len(right)} {on}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    default = Path(__file__).resolve().parents[1].parent / "shared" / "media"
    print(as_table(figures(Path(sys.argv[1]) if len(sys.argv) > 1 else default, int(sys.argv[2]) if len(sys.argv) > 2 else FIRST)))
