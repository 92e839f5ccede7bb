"""How right the technical quality is: degraded copies of real clips, combed and repeated frames of known truth, and the real media.

`python benchmarks/accuracy_quality.py [MEDIA]` prints the table. Thresholds were chosen on the first frames of the same clips.
"""

import io
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.border_truth import CLEAN, MOVING
from benchmarks.figures import Figure, as_table
from curation import decode, media
from curation.observe import SmallFrames
from curation.quality import QualityConfig, QualityObserver, measure_clip_quality, quality_track_of_picture
from curation.scan import tracks_of
from curation.tracks import Track, Tracks, by_name
from manifests.records import Clip

N_FRAMES = 72
LOOKS = 4
LATER = 3 * LOOKS
REPEATING = ("london_pan_240p60", "chrome_ad_first4s")
"""Real clips that repeat frames themselves: 60 a second made of 30, and an animation drawn on twos."""
CFG = QualityConfig()
TIE = 0.005
"""Of blockiness, a hundredth of what the rule drops at: two copies in which the loop filter left no blocks may lie so far apart either way."""

Frames = Sequence[np.ndarray]


def figures(folder: Path) -> list[Figure]:
    """Every figure of the technical quality; `folder` is the test media."""
    clips = _clips(folder)
    return [*_monotone(clips), *_monotone_coded(folder), *_cross_talk(clips), *_combing(folder, clips), *_repeats(folder, clips)]


def _clips(folder: Path) -> dict[str, list[np.ndarray]]:
    """The luma of the first frames of each clean real video, at full size as stored."""
    found = {}
    for name in CLEAN:
        path = next(iter(sorted((folder / "video").glob(f"{name}.*"))), None)
        if path is None:
            continue
        frames = []
        for source, _ in decode.decode(str(path), media.MediaConfig()):
            if len(frames) == N_FRAMES:
                break
            # Only a few are wanted at full size: the others serve the tests of time, on small frames.
            keep = len(frames) < 3 * LOOKS
            size = (source.width, source.height) if keep else (320, 320 * source.height // source.width // 2 * 2)
            frames.append(source.reformat(*size, format="gray").to_ndarray())
        found[name] = frames
    return found


def _columns(pictures: Frames) -> dict[str, float]:
    """The quality columns of a clip whose looks are the pictures."""
    looks = [quality_track_of_picture(np.repeat(p[..., None], 3, 2)) for p in pictures]
    values = np.concatenate([t.values for t in looks])
    track = Track(name="quality", fields=looks[0].fields, pts_us=np.arange(len(looks)), values=values)
    return measure_clip_quality(_clip(), {"quality": track}, CFG)


def _clip() -> Clip:
    return Clip(clip_id="", asset_id="", kind="video", start_us=-(10**9), end_us=10**12)


def _blur(frames: Frames, sigma: float) -> Frames:
    return [cv2.GaussianBlur(f, (0, 0), sigma) if sigma else f for f in frames]


def _noise(frames: Frames, sigma: float) -> Frames:
    rng = np.random.Generator(np.random.Philox(key=3))
    return [np.clip(f + rng.normal(0, sigma, f.shape), 0, 255).astype(np.uint8) for f in frames]


def _rescaled(frames: Frames, factor: float) -> Frames:
    def twice(f: np.ndarray) -> np.ndarray:
        small = cv2.resize(f, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, f.shape[::-1], interpolation=cv2.INTER_CUBIC))

    return [twice(f) if factor < 1 else f for f in frames]


def _jpeg(frames: Frames, quality: float) -> Frames:
    return [
        cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1], cv2.IMREAD_GRAYSCALE) if quality else f
        for f in frames
    ]


def _x264(frames: Frames, crf: float) -> Frames:
    return [s.to_ndarray()[: s.height] for s in _decoded(_encoded(frames, int(crf)))]


CRFS = (26, 34, 42, 50)
LADDERS: tuple[tuple[str, str, Callable[[Frames, float], Frames], tuple[float, ...], bool], ...] = (
    ("sharpness", "Gaussian blur of 0, 0.7, 1.2, 2, 3.5 px", _blur, (0, 0.7, 1.2, 2, 3.5), False),
    ("noise", "noise of 0, 2, 4, 8, 16 levels", _noise, (0, 2, 4, 8, 16), True),
    ("blockiness", "JPEG of quality 80, 50, 25, 10 after none", _jpeg, (0, 80, 50, 25, 10), True),
    ("effective_resolution", "scaled to 1, 0.75, 0.5, 0.35, 0.25 and back", _rescaled, (1, 0.75, 0.5, 0.35, 0.25), False),
)


def _monotone(clips: dict[str, list[np.ndarray]]) -> list[Figure]:
    found = []
    for column, what, degrade, levels, rises in LADDERS:
        ordered = []
        for frames in clips.values():
            part = frames[: 3 * LOOKS : 3]
            values = np.array([_columns(degrade(part, level))[column] for level in levels], float)
            ordered.append(bool((np.diff(values) * (1 if rises else -1) > 0).all()))
        name = f"{column} strictly ordered: {what}"
        found.append(Figure(subject="quality", what=name, value=float(np.mean(ordered)), target=0.95, on=f"{len(clips)} real clips"))
    return found


def _monotone_coded(folder: Path) -> list[Figure]:
    """As above for H.264, but for ties: on the first frames, which the weight of soft blocks was chosen on, and on two later parts."""
    found = []
    for part, said in ((0, "frames tuned on"), (4, "frames not tuned on"), (8, "later frames, not tuned on")):
        steps = [np.diff([_columns(_x264(frames, crf))["blockiness"] for crf in CRFS]) for frames in _parts(folder, part)]
        strictly = sum(bool((s > 0).all()) for s in steps)
        figure = Figure(
            subject="quality",
            what=f"blockiness ordered, ties within {TIE} aside: H.264 at crf {', '.join(map(str, CRFS))}",
            value=float(np.mean([bool((s > -TIE).all()) for s in steps])),
            target=0.95,
            on=f"{len(steps)} real clips, {said}; {strictly} strictly",
        )
        found.append(figure)
    return found


def _parts(folder: Path, part: int) -> Iterator[Frames]:
    """LATER frames that follow each other, as a coder needs them, of each clean real video that is long enough."""
    for name in CLEAN:
        path = next(iter(sorted((folder / "video").glob(f"{name}.*"))), None)
        if path is None:
            continue
        decoded = itertools.islice(decode.decode(str(path), media.MediaConfig()), part * LATER, (part + 1) * LATER)
        frames = [source.reformat(format="gray").to_ndarray() for source, _ in decoded]
        if len(frames) == LATER:
            yield frames


def _cross_talk(clips: dict[str, list[np.ndarray]]) -> list[Figure]:
    """Shares of clips in which another degradation does not read as the measure's own."""
    kept: dict[str, list[bool]] = {
        "sharpness under noise": [],
        "noise under blur": [],
        "blockiness under noise": [],
        "blockiness under blur": [],
    }
    for frames in clips.values():
        part = frames[: 3 * LOOKS : 3]
        plain, noisy, soft = _columns(part), _columns(_noise(part, 8)), _columns(_blur(part, 2))
        kept["sharpness under noise"].append(abs(noisy["sharpness"] - plain["sharpness"]) <= 0.1)
        kept["noise under blur"].append(soft["noise"] <= plain["noise"] + 0.2)
        kept["blockiness under noise"].append(noisy["blockiness"] <= plain["blockiness"] + 0.05)
        kept["blockiness under blur"].append(soft["blockiness"] <= plain["blockiness"] + 0.05)
    words = {"sharpness under noise": "stays within 0.1 under noise of 8 levels", "noise under blur": "does not rise under blur of 2 px"}
    words |= {
        "blockiness under noise": "does not rise under noise of 8 levels",
        "blockiness under blur": "does not rise under blur of 2 px",
    }
    on = f"{len(clips)} real clips"
    return [
        Figure(subject="quality", what=f"{k.split()[0]} {words[k]}", value=float(np.mean(v)), target=0.95, on=on) for k, v in kept.items()
    ]


def _encoded(frames: Frames, crf: int, fps: int = 24) -> bytes:
    height, width = (n // 2 * 2 for n in frames[0].shape)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": str(crf), "threads": "1"}
        stream.codec_context.time_base = Fraction(1, fps)
        grey = np.full((height // 2, width), 128, np.uint8)
        for i, luma in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.concatenate([luma[:height, :width], grey]), format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def _decoded(coded: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(coded)) as container:
        return list(container.decode(video=0))


def _watched(frames: Frames, crf: int, fps: int = 24) -> Tracks:
    """The observer's tracks of the frames as H.264."""
    observer = QualityObserver()
    decoded = _decoded(_encoded(frames, crf, fps))
    small = SmallFrames(decoded[0].width, decoded[0].height)
    for i, source in enumerate(decoded):
        observer.push(small(source, i * 1_000_000 // fps))
    return by_name(observer.finish())


def _combing(folder: Path, clips: dict[str, list[np.ndarray]]) -> list[Figure]:
    """Fields of two times woven into one frame, against the same frames whole; and the real media."""
    right = []
    for name in MOVING:
        if name not in clips:
            continue
        frames = clips[name][3 * LOOKS :]
        woven = []
        for one, two in zip(frames[::2], frames[1::2], strict=False):
            both = one.copy()
            both[1::2] = two[1::2]
            woven.append(both)
        for pictures, combed in ((frames, False), (woven, True)):
            value = measure_clip_quality(_clip(), _watched(pictures, 14, 12), CFG)["interlaced"]
            right.append((value >= 0.3) == combed)
    of_made = Figure(
        subject="quality",
        what="interlaced at 0.3 or more, woven fields",
        value=float(np.mean(right)),
        target=0.95,
        on=f"{len(right)} generated clips",
    )
    real = {}
    for path in sorted([*(folder / "video").iterdir(), folder / "hostile" / "made_interlaced_tff.mpg"]):
        if path.exists() and path.stat().st_size < 800_000:
            real[path.name] = measure_clip_quality(_clip(), by_name(tracks_of(str(path), [QualityObserver()])), CFG)["interlaced"] or 0.0
    correct = [(value >= 0.3) == (name == "made_interlaced_tff.mpg") for name, value in real.items()]
    of_real = Figure(
        subject="quality",
        what="interlaced, real videos",
        value=float(np.mean(correct)),
        target=1.0,
        on=f"{len(real)} videos below 0.8 MB, one of them interlaced",
    )
    return [of_made, of_real]


def _repeats(folder: Path, clips: dict[str, list[np.ndarray]]) -> list[Figure]:
    """Repeated frames of known share, coded again at crf 28."""
    kinds: dict[str, Callable[[list[np.ndarray]], tuple[list[np.ndarray], float]]] = {
        "none": lambda f: (f, 0.0),
        "each twice": lambda f: ([p for p in f[:30] for _ in range(2)], 0.5),
        "each four times": lambda f: ([p for p in f[:15] for _ in range(4)], 0.75),
        "3:2 pulldown": lambda f: ([p for i, p in enumerate(f[:48]) for _ in range(1 + (i % 4 == 3))], 0.2),
        "frozen end": lambda f: ([*f[:30], *[f[29]] * 30], 0.5),
    }
    right: dict[str, list[bool]] = {k: [] for k in kinds}
    for name in MOVING:
        if name in REPEATING or len(clips.get(name, [])) < N_FRAMES:
            continue
        for kind, make in kinds.items():
            pictures, share = make(clips[name][3 * LOOKS :])
            found = measure_clip_quality(_clip(), _watched(pictures, 28), CFG)["duplicate_fraction"]
            right[kind].append(abs(found - share) <= 0.1)
    n = sum(len(v) for v in right.values())
    of_made = Figure(
        subject="quality", what="duplicate_fraction within 0.1 (none, twice, four times, 3:2 pulldown, frozen end)",
        value=float(np.mean([ok for v in right.values() for ok in v])), target=0.95, on=f"{n} generated clips",
    )  # fmt: skip
    real = []
    for name, repeats in (("hostile/made_frozen_tail.mp4", True), ("hostile/made_240fps.mp4", True), ("hostile/made_vfr_dropped.mp4", False),
                          ("video/seattle_shaky_pan.avi", False), ("video/mdn_frog_480p.mp4", False), ("video/sea_360p.mp4", False)):  # fmt: skip
        if (folder / name).exists():
            found = measure_clip_quality(_clip(), by_name(tracks_of(str(folder / name), [QualityObserver()])), CFG)["duplicate_fraction"]
            real.append((found >= 0.2) == repeats)
    of_real = Figure(
        subject="quality",
        what="duplicate_fraction of 0.2 or more, real videos",
        value=float(np.mean(real)),
        target=1.0,
        on=f"{len(real)} videos, 2 with repeats",
    )
    return [of_made, of_real]


if __name__ == "__main__":
    cv2.setNumThreads(1)
    default = Path(__file__).resolve().parents[1].parent / "shared" / "media"
    print(as_table(figures(Path(sys.argv[1]) if len(sys.argv) > 1 else default)))
