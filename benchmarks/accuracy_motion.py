"""Amount of motion against FFmpeg's vmafmotion, independence of frame rate, and motion vectors: codec against estimate.

    python benchmarks/accuracy_motion.py

Clips are those the analysis would plan (4 to 16 s of one shot) with shots from cuts.json, and whole single-shot videos where shorter.
FFmpeg runs once a file; what it says is kept in the temporary folder. Nothing of the amount of motion is fitted but `growth_bend`.
"""

import gc
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import FILES, media_folder
from benchmarks.figures import Figure, as_table
from curation import decode, motion, vectors
from curation.media import MediaConfig
from curation.observe import Frame, SmallFrames
from curation.orientation import Orientation
from curation.probe import probe
from curation.shots import ClipConfig, Shot, clips_of_shot
from curation.tracks import Track, Tracks, by_name
from manifests.records import Clip

REFERENCES = Path(tempfile.gettempdir()) / "dailies-vmafmotion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one decode of a video gave: tracks, its small luma, and the mean codec vector of every frame (nan where it has none)."""

    codec: str
    size: tuple[int, int]
    pts_us: np.ndarray
    small: list[np.ndarray]
    tracks: Tracks
    codec_px: np.ndarray


def figures(folder: Path) -> list[Figure]:
    """All figures of motion and of motion vectors."""
    cuts = {Path(e["file"]).name: e["cuts"] for e in json.loads((folder / "cuts.json").read_text())["entries"]}
    cases, halves, agreement, recorded = [], [], [], []
    for path in sorted((folder / "video").iterdir()):
        seen = watch(path)
        reference = vmafmotion(path)
        for clip in planned(seen, cuts.get(path.name, [])):
            first, end = bisect_left(seen.pts_us, clip.start_us), bisect_left(seen.pts_us, clip.end_us)
            if len(reference) == len(seen.pts_us):  # FFmpeg's command gives other frames of three files
                cases.append((path.name, *both_motions(clip, seen, reference[first + 1 : end])))
            halves += at_half_rate(clip, seen, first, min(end, first + 300))
            found = both_vectors(clip, seen, seen.codec_px[first + 1 : end])
            if found:
                agreement.append((path.name, found[0], found[1]))
                recorded.append((found[0], found[2]))
    return [*of_motion(cases), *of_rate(np.array(halves)), *of_vectors(agreement, np.array(recorded)), of_cost(folder)]


def watch(path: Path) -> Watched:
    """One decode with both observers, and with the codec's vectors of every frame."""
    facts = probe(str(path), MediaConfig())
    size = facts.width or 16, facts.height or 16
    small, amount, flow = SmallFrames(*size), motion.MotionWatch(), vectors.VectorWatch()
    pts: list[int] = []
    planes, lengths, kinds = [], [], []
    order: dict[int, int] = {}

    def packet(packet: Any) -> None:
        flow.packet(packet)
        if packet.pts is not None:
            order[packet.pts] = len(order)

    for source, pts_us in decode.decode(str(path), MediaConfig(), vectors=facts.vcodec in motion.VECTOR_CODECS, on_packet=packet):
        frame = small(source, pts_us)
        amount.push(frame)
        flow.push(frame)
        pts.append(pts_us)
        planes.append(frame.y.copy())
        lengths.append(vectors.vector_lengths(source))
        kinds.append((source.pts if source.pts is not None else pts_us, int(source.pict_type)))
        if not len(pts) % 5:
            gc.collect(0)  # side data and its frame hold each other
    steps = vectors.reference_steps(kinds, order)
    px = [
        np.nan if v is None or not v.area or not back else (v.back / back + v.ahead / ahead) / v.area
        for v, (back, ahead) in zip(lengths, steps, strict=True)
    ]
    tracks = by_name([*amount.finish(), *flow.finish()])
    return Watched(codec=facts.vcodec or "", size=size, pts_us=np.array(pts), small=planes, tracks=tracks, codec_px=np.array(px))


def vmafmotion(path: Path) -> np.ndarray:
    """FFmpeg's vmafmotion of every frame at full size."""
    import imageio_ffmpeg

    REFERENCES.mkdir(exist_ok=True)
    kept = REFERENCES / f"{path.name}-{path.stat().st_size}.txt"
    if not kept.exists():
        out = kept.with_suffix(".part")
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1", "-i", str(path), "-an"]
        filters = ["-vf", f"vmafmotion=stats_file={out}", "-fps_mode", "passthrough", "-f", "null", "-"]
        subprocess.run([*command, *filters], check=True)
        out.rename(kept)
    return np.array([float(x) for x in re.findall(r"motion:([\d.]+)", kept.read_text())])


def planned(seen: Watched, cuts: list[dict[str, Any]]) -> list[Clip]:
    """The clips of a video whose true cuts are known; none listed is a single shot."""
    pts = seen.pts_us
    end_us = int(pts[-1]) + int(np.median(np.diff(pts)))
    shots: list[Shot] = []
    start, opens = int(pts[0]), "start"
    for cut in cuts:
        if cut["frame"] < len(pts):
            shots.append(shot(len(shots), start, int(pts[cut.get("start", cut["frame"])]), opens, cut["kind"]))
            start, opens = int(pts[cut["frame"]]), cut["kind"]
    shots.append(shot(len(shots), start, end_us, opens, "end"))
    spans: list[Any] = [span for s in shots for span in clips_of_shot(s, pts, ClipConfig())] or (shots if len(shots) == 1 else [])
    width, height = seen.size
    return [
        Clip(clip_id="c", asset_id="a", asset_no=0, kind="video", start_us=int(pts[bisect_left(pts, s.start_us)]), end_us=s.end_us,
             width=width, height=height) for s in spans
    ]  # fmt: skip


def shot(number: int, start_us: int, end_us: int, opens: Any, closes: Any) -> Shot:
    """A shot."""
    return Shot(shot_no=number, start_us=start_us, end_us=end_us, opens=opens, closes=closes)


def both_motions(clip: Clip, seen: Watched, reference: np.ndarray) -> tuple[float, float, float, float]:
    """(FFmpeg's mean a step, ours) at the clip's own steps, and both brought to 1/24 s by the same factor, ours."""
    ours = cast(float, motion.measure_motion(clip, seen.tracks, motion.MotionConfig())["motion"])
    track = seen.tracks["motion"].between(clip.start_us, clip.end_us)
    samples = seen.tracks["motion_samples"].between(int(track.pts_us[1]), clip.end_us)
    own = motion.full_size_ratio(clip, samples, seen.tracks["motion_samples"], motion.MotionConfig()) * float(track["motion"][1:].mean())
    return float(reference.mean()), own, float(reference.mean()) * (ours / own if own else 1), ours


def at_half_rate(clip: Clip, seen: Watched, first: int, end: int) -> list[float]:
    """Motion of every second frame over that of all frames, for clips of 23 to 31 frames a second that move."""
    pts = seen.pts_us[first:end]
    if len(pts) < 24 or not 23 < 1e6 / np.median(np.diff(pts)) < 31:
        return []
    both = []
    for step in (1, 2):
        eye = motion.MotionWatch()
        for luma, pts_us in zip(seen.small[first:end:step], pts[::step], strict=True):
            none = cast(Any, SimpleNamespace(format=SimpleNamespace(name="none")))
            eye.push(Frame(int(pts_us), luma, luma, luma, none, Orientation()))
        span = Clip(
            clip_id="c", asset_id="a", asset_no=0, kind="video", start_us=int(pts[0]), end_us=int(pts[-1]) + 1, width=160, height=90
        )
        both.append(motion.measure_motion(span, by_name(eye.finish()), motion.MotionConfig())["motion"])
    return [both[1] / both[0]] if both[0] > 0.2 else []


def both_vectors(clip: Clip, seen: Watched, codec_px: np.ndarray) -> tuple[float, float, float] | None:
    """(the codec's mean over all frames at the usual step, our estimate alone without its factor, what is recorded) of a clip of an H.264 video."""
    if seen.codec != "h264" or not np.isfinite(codec_px).any():
        return None
    track = seen.tracks["vectors"]
    values = np.stack([np.full(len(track), np.nan, np.float32), track["estimate_px"]], 1)
    alone = Track(name=track.name, fields=track.fields, pts_us=track.pts_us, values=values)
    plain = vectors.VectorsConfig(estimate_factor=1.0)
    estimate = vectors.measure_vectors(clip, {**seen.tracks, "vectors": alone}, plain)["motion_vector_px"]
    recorded = vectors.measure_vectors(clip, seen.tracks, vectors.VectorsConfig())["motion_vector_px"]
    scale = vectors.to_usual_step(clip.start_us, seen.tracks["motion"].between(clip.start_us + 1, clip.end_us), vectors.VectorsConfig())
    return None if estimate is None else (float(np.nanmean(codec_px)) * scale, estimate, recorded)


def of_motion(cases: list[tuple[str, float, float, float, float]]) -> list[Figure]:
    """Rank agreement and verdicts against FFmpeg."""
    x = np.array([c[1:] for c in cases])
    on = f"{len(x)} clips of {len({c[0] for c in cases})} real videos; ours has no fitted scale"
    rows = []
    for a, b, at in ((0, 1, "at own frame rates"), (2, 3, "both at 1/24 s")):
        verdicts = float(((x[:, a] > 2) == (x[:, b] > 2)).mean())
        rows += [
            Figure(subject="motion", what=f"rank agreement with vmafmotion, {at}", value=spearman(x[:, a], x[:, b]), target=0.97, on=on),
            Figure(subject="motion", what=f"same verdict at > 2.0, {at}", value=verdicts, target=0.97, on=on),
        ]
    return rows


def of_rate(ratio: np.ndarray) -> list[Figure]:
    """How much a halved frame rate changes the number."""
    on = f"{len(ratio)} real clips of 24 to 30 frames a second against every second frame of them; growth_bend tuned on these"
    off = float(np.median(np.abs(ratio - 1)))
    return [Figure(subject="motion", what="median change at half the frame rate", value=off, target=0.05, on=on, at_least=False)]


def of_vectors(pairs: list[tuple[str, float, float]], recorded: np.ndarray) -> list[Figure]:
    """Verdicts of 0.5 < m < 7: estimate against all codec vectors, with the factor's median fitted on the other half of the recordings too."""
    # By the first word of the name, so that no recording has copies in both halves.
    half = np.array([hashlib.sha256(re.split(r"[_.]", name)[0].encode()).digest()[0] & 1 for name, _, _ in pairs])
    codec, estimate = np.array([p[1:] for p in pairs]).T
    same, factors = np.zeros(len(pairs), bool), []
    for h in (0, 1):
        fit = (half != h) & (codec > 0.1) & (estimate > 0.05)
        factors.append(float(np.median(codec[fit] / estimate[fit])))
        same[half == h] = moves(codec[half == h]) == moves(factors[-1] * estimate[half == h])
    on = f"{len(pairs)} clips of H.264 videos, against all vectors of the codec"
    fixed = moves(codec) == moves(vectors.VectorsConfig().estimate_factor * estimate)
    held = f"{on}; factor fitted on the other half of the recordings ({factors[0]:.2f}, {factors[1]:.2f})"
    stored = moves(recorded[:, 0]) == moves(recorded[:, 1])
    rows = (
        ("verdict of the estimate", fixed, f"{on}; factor fitted on them"),
        ("verdict of the estimate, held out", same, held),
        ("verdict of what is recorded", stored, on),
    )
    return [Figure(subject="motion vectors", what=w, value=float(v.mean()), target=0.9, on=o) for w, v, o in rows] + [
        Figure(subject="motion vectors", what="rank agreement of the estimate", value=spearman(codec, estimate), target=0.9, on=on)
    ]


def of_cost(folder: Path) -> Figure:
    """CPU of the second decoder over that of the decode."""
    spent = {"all": 0.0, "sampler": 0.0}
    for name in FILES:
        sampler = vectors.VectorSampler()

        def packet(packet: Any, push: Callable[[Any], None] = sampler.push) -> None:
            start = time.thread_time()
            push(packet)
            spent["sampler"] += time.thread_time() - start

        start = time.thread_time()
        for _ in decode.decode(str(folder / "video" / name), MediaConfig(), on_packet=packet):
            pass
        spent["all"] += time.thread_time() - start
    share = spent["sampler"] / (spent["all"] - spent["sampler"])
    on = f"{len(FILES)} files of benchmarks/decode.py, CPU s of the second decoder over those of the first"
    return Figure(subject="motion vectors", what="cost of codec vectors", value=share, target=0.05, on=on, at_least=False)


def moves(px: np.ndarray) -> np.ndarray:
    """The paper's verdict."""
    return np.asarray((px > 0.5) & (px < 7))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties by their mean rank."""

    def ranks(x: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
        return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


if __name__ == "__main__":
    import cv2

    cv2.setNumThreads(1)
    print(as_table(figures(media_folder())))
