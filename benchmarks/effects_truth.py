"""Clips with known effects, made of real ones: Ken Burns slideshows, loops, strobes, speed ramps, frozen tails; and the clips as they are."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

SIZE = (320, 180)
FPS = 24
N_FRAMES = 120
FINEST = 4
"""Px of a still to a px of a frame, at most: so finely it is moved before it is made small."""
MOVING = 0.4
"""Levels a frame: under it a scene rests, but for noise and coding."""


@dataclass(frozen=True, slots=True)
class Case:
    """A clip of N_FRAMES at FPS, fewer where a ramp leaves frames out, and what is true of it: none, slideshow, loop, strobe, frozen, or
    ramp and how it was made."""

    name: str
    effect: str
    frames: list[np.ndarray]


def read_frames(path: Path, limit: int = 160, from_s: float = 0, to_s: float = float("inf"), converted: bool = False) -> list[np.ndarray]:
    """The first frames of a video in a stretch of time at SIZE, RGB; empty for a short one.

    Each frame once, of 50 or 60 a second every second one: shown at FPS, all at one pace. Or `converted` to FPS as players do, by repeating
    and leaving out, which makes a cadence of its own.
    """
    import av

    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        every = max(1, round(float(stream.average_rate or FPS) / FPS))
        first, due, n = None, 0.0, 0
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            at = float(frame.pts * stream.time_base)
            if first is None:
                first, due = at, at + from_s
            if at >= first + to_s or len(frames) >= limit:
                break
            if at < first + from_s - 1e-3:
                continue
            if converted:
                times = max(0, math.floor((at - due + 1e-3) * FPS) + 1)
                due += times / FPS
            else:
                times = int(n % every == 0)
                n += 1
            if times:
                frames += [frame.to_ndarray(format="rgb24", width=SIZE[0], height=SIZE[1])] * times
    return frames[:limit] if len(frames) >= N_FRAMES else []


def read_picture(path: Path) -> np.ndarray:
    """A picture, RGB; of a video the frame a second in, at its own size."""
    import av
    import cv2

    picture = cv2.imread(str(path))
    if picture is not None:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        first = next(frames)
        shown = next((f for f in frames if f.time is not None and f.time >= (first.time or 0.0) + 1), first)
        return np.asarray(shown.to_ndarray(format="rgb24"))


def write(path: Path, frames: list[np.ndarray], crf: int = 23) -> Path:
    """The frames as H.264 at FPS."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE[0], SIZE[1], "yuv420p"
        stream.options = {"preset": "veryfast", "crf": str(crf)}
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def ken_burns(picture: np.ndarray, rng: np.random.Generator, n: int = N_FRAMES) -> list[np.ndarray]:
    """A still under a slow zoom or slide, eased or even. No frame takes single px out of a larger picture: fine print would glitter."""
    import cv2

    aspect = SIZE[0] / SIZE[1]
    shrink = min(1.0, FINEST * SIZE[0] / min(picture.shape[1], picture.shape[0] * aspect))
    picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    w = min(width, height * aspect)
    over = int(np.ceil(w / SIZE[0]))
    kind = rng.choice(["in", "out", "slide", "still"])
    speed = rng.uniform(0.02, 0.08)  # of the width, a second
    ease = rng.random() < 0.3
    frames = []
    for i in range(n):
        u = i / (n - 1)
        u = (1 - np.cos(np.pi * u)) / 2 if ease else u
        way = speed * n / FPS * u
        scale = {"in": 1 - way, "out": 1 - speed * n / FPS + way}.get(str(kind), 0.7)
        cx = width / 2 + (way - 0.1) * 0.7 * w if kind == "slide" else width / 2
        half_w, half_h = w * scale / 2, w * scale / aspect / 2
        matrix = np.array([[SIZE[0] / (2 * half_w), 0, 0], [0, SIZE[1] / (2 * half_h), 0]])
        matrix[:, 2] = [-matrix[0, 0] * (cx - half_w), -matrix[1, 1] * (height / 2 - half_h)]
        large = cv2.warpAffine(picture, matrix * over, (SIZE[0] * over, SIZE[1] * over), borderMode=cv2.BORDER_REFLECT)
        frames.append(cv2.resize(large, SIZE, interpolation=cv2.INTER_AREA))
    return frames


def loop(frames: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """One to two seconds, again and again; a third of them to and fro. Two periods fit."""
    fro = rng.random() < 0.33
    period = int(rng.integers(FPS * 2 // 3, FPS * 7 // 6) if fro else rng.integers(FPS, 2 * FPS))
    start = int(rng.integers(0, len(frames) - period))
    piece = frames[start : start + period]
    piece = piece + piece[::-1] if fro else piece
    return [piece[i % len(piece)] for i in range(N_FRAMES)]


def strobe(frames: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Brightness on and off, 4 to 12 times a second, by a fifth to a half."""
    every, depth = int(rng.integers(1, 4)), rng.uniform(0.2, 0.5)
    return [(f * (1 - depth)).astype(np.uint8) if (i // every) % 2 else f for i, f in enumerate(frames[:N_FRAMES])]


def ramp(frames: list[np.ndarray], rng: np.random.Generator, how: str) -> list[np.ndarray]:
    """Full pace and, in one stretch of a third to two thirds, another, eased over 0 to 0.5 s; the change of pace is made as `how` says.

    blended    0.2 to 0.5 of the pace, frames between two of the source as their mixture
    repeated   0.2 to 0.5 of the pace, the nearest frame of the source
    flowed     0.2 to 0.5 of the pace, frames between two of the source by optical flow, as from a fast camera
    dropped    2.5 to 4 times the pace, frames left out

    Empty where the scene rests in either stretch: of it no pace is to be seen.
    """
    other = rng.uniform(2.5, 4) if how == "dropped" else rng.uniform(0.2, 0.5)
    first, last = sorted((rng.uniform(0.2, 0.4), rng.uniform(0.65, 1.0)))
    if rng.random() < 0.3:
        first, last = -1.0, last - 0.25  # from the start on; a second and more is left at full pace
    ease = max(1.0, rng.uniform(0, 0.5) * FPS)
    # As many frames of the result as the source lasts for: fewer when it is run through faster.
    n = N_FRAMES
    while True:
        i = np.arange(n)
        share = np.clip((i - first * n) / ease, 0, 1) * np.clip((last * n - i) / ease, 0, 1)
        at = np.concatenate([[0], np.cumsum(np.exp(share * np.log(other)))[:-1]])
        if at[-1] <= len(frames) - 1:
            shown = all(_moves(frames, at[part]) for part in (share == 0, share == 1))
            return [_between(frames, float(t), how) for t in at] if shown else []
        n -= 1


def _moves(frames: list[np.ndarray], at: np.ndarray) -> bool:
    """Whether at half of these places or more the source changes by MOVING levels and more from frame to frame."""
    small = [frames[int(t) + k][::2, ::2].mean(2) for t in at for k in (0, 1) if int(t) + 1 < len(frames)]
    steps = [float(np.abs(b - a).mean()) for a, b in zip(small[::2], small[1::2], strict=True)]
    return bool(steps) and float(np.median(steps)) >= MOVING


def _between(frames: list[np.ndarray], at: float, how: str) -> np.ndarray:
    before = min(int(at), len(frames) - 2)
    part = at - before
    if how in ("repeated", "dropped"):
        return frames[round(at)]
    a, b = frames[before], frames[before + 1]
    if how == "flowed":
        a, b = _moved(a, b, part), _moved(b, a, 1 - part)
    return (a * (1 - part) + b * part).astype(np.uint8)


def _moved(a: np.ndarray, b: np.ndarray, part: float) -> np.ndarray:
    """The frame, moved part of the way to b."""
    import cv2

    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (a, b)), None)
    rows, columns = np.mgrid[: a.shape[0], : a.shape[1]].astype(np.float32)
    return cv2.remap(a, columns - part * flow[..., 0], rows - part * flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def frozen(frames: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The first third, then its last frame to the end."""
    stop = N_FRAMES // 3
    return [frames[min(i, stop)] for i in range(N_FRAMES)]


RAMPS = ("blended", "repeated", "flowed", "dropped")
EFFECTS: dict[str, Callable[[list[np.ndarray], np.random.Generator], list[np.ndarray]]] = {
    "loop": loop,
    "strobe": strobe,
    "frozen": frozen,
    **{f"ramp {how}": partial(ramp, how=how) for how in RAMPS},
}


def cases(shots: list[tuple[Path, float, float]], pictures: list[Path], seed: int = 1) -> Iterator[Case]:
    """Every shot (a video, from when, until when) as it is and under each effect; every picture as a Ken Burns clip, and in slideshows of
    three with cross-fades."""
    for number, (path, from_s, to_s) in enumerate(shots):
        frames = read_frames(path, from_s=from_s, to_s=to_s)
        if not frames:
            continue
        yield Case(path.name, "none", frames[:N_FRAMES])
        for k, (effect, make) in enumerate(EFFECTS.items()):
            rng = np.random.Generator(np.random.Philox(key=[seed, 100 * number + k]))
            made = make(frames, rng)
            if made:
                yield Case(path.name, effect, made)
    loaded = [read_picture(p) for p in pictures]
    for number, (path, picture) in enumerate(zip(pictures, loaded, strict=True)):
        rng = np.random.Generator(np.random.Philox(key=[seed, 9000 + number]))
        yield Case(path.name, "slideshow", ken_burns(picture, rng))
        three = [ken_burns(loaded[(number + j) % len(loaded)], rng, 48) for j in range(3)]
        yield Case(path.name, "slideshow", _cross_fade(three, 12))


def _cross_fade(parts: list[list[np.ndarray]], n: int) -> list[np.ndarray]:
    out = parts[0]
    for part in parts[1:]:
        mixed = [
            (a * (1 - (i + 1) / (n + 1)) + b * ((i + 1) / (n + 1))).astype(np.uint8)
            for i, (a, b) in enumerate(zip(out[-n:], part[:n], strict=True))
        ]
        out = out[:-n] + mixed + part[n:]
    return out[:N_FRAMES]
