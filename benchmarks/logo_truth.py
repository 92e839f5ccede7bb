"""Marks without letters in a corner of real moving clips: each mark is drawn from its number, the frames are compressed with x264 again.

A mark is one or two simple shapes (ring, disc, star, triangle, bars, waves, cross, petals) in white, black or a colour, opaque or seen
through, 4 to 12 % of the width, up to 6 % from the edges, sometimes with a soft shadow.
"""

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from curation import decode, media
from curation.keyframe_observer import KeyFrameObserver
from curation.keyframes import KeyFrame
from curation.observe import SmallFrames
from curation.orientation import orientation

LONG_SIDE_PX, SECONDS, FPS = 640, 8, 12
SHAPES = ("ring", "disc", "star", "triangle", "bars", "waves", "cross", "petals")


def mark(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(opacity [256, 256] in 0..1, colour [3] in 0..255) of the mark of this number."""
    rng = np.random.Generator(np.random.Philox(key=number))
    shape = np.zeros((256, 256), np.uint8)
    for _ in range(int(rng.integers(1, 3))):
        _draw(shape, SHAPES[int(rng.integers(len(SHAPES)))], rng)
    alpha = shape.astype(np.float32) / 255 * float(rng.uniform(0.3, 1.0))
    colour = [(255, 255, 255), (250, 250, 250), (10, 10, 10), tuple(int(c) for c in rng.integers(0, 256, 3))][int(rng.integers(4))]
    return alpha, np.array(colour, np.float32)


def _draw(canvas: np.ndarray, name: str, rng: np.random.Generator) -> None:
    turn, thick = float(rng.uniform(0, 2 * np.pi)), int(rng.integers(14, 34))
    angles = turn + np.arange(10) * np.pi / 5

    def at(radius: float, angle: float) -> tuple[int, int]:
        return round(128 + radius * np.cos(angle)), round(128 + radius * np.sin(angle))

    if name == "ring":
        cv2.circle(canvas, (128, 128), 100, 255, thick, cv2.LINE_AA)
    elif name == "disc":
        cv2.circle(canvas, (128, 128), int(rng.integers(50, 110)), 255, -1, cv2.LINE_AA)
    elif name == "star":
        cv2.fillPoly(canvas, [np.array([at(115 if i % 2 else 48, a) for i, a in enumerate(angles)])], 255, cv2.LINE_AA)
    elif name == "triangle":
        cv2.polylines(canvas, [np.array([at(105, turn + i * 2 * np.pi / 3) for i in range(3)])], True, 255, thick, cv2.LINE_AA)
    elif name == "bars":
        for i, height in enumerate(rng.integers(60, 220, 4)):
            cv2.rectangle(canvas, (24 + 56 * i, 238 - int(height)), (60 + 56 * i, 238), 255, -1)
    elif name == "waves":
        for y in (70, 128, 186):
            points = [(x, round(y + 22 * np.sin(turn + x / 24))) for x in range(16, 241, 4)]
            cv2.polylines(canvas, [np.array(points)], False, 255, thick, cv2.LINE_AA)
    elif name == "cross":
        for i in range(2):
            cv2.line(canvas, at(105, turn + i * np.pi / 2), at(-105, turn + i * np.pi / 2), 255, thick + 8, cv2.LINE_AA)
    else:
        for i in range(int(rng.integers(3, 7))):
            cv2.ellipse(canvas, at(62, turn + i * 1.25), (52, 24), float(np.degrees(turn + i * 1.25)), 0, 360, 255, -1, cv2.LINE_AA)


def put(frames: list[np.ndarray], number: int) -> list[np.ndarray]:
    """The frames, RGB uint8, all with the mark of this number at the place of this number."""
    rng = np.random.Generator(np.random.Philox(key=(number, 1)))
    alpha, colour = mark(number)
    height, width = frames[0].shape[:2]
    side = max(12, round(width * float(rng.uniform(0.04, 0.12))))
    small = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
    right, low = rng.integers(0, 2, 2)
    margins = [round(float(rng.uniform(0.01, 0.06)) * width) for _ in range(2)]
    x = width - side - margins[0] if right else margins[0]
    y = height - side - margins[1] if low else margins[1]
    shadow = 0.4 * cv2.GaussianBlur(small, (0, 0), side / 24) if rng.random() < 0.3 else np.zeros_like(small)
    out = []
    for frame in frames:
        frame = frame.copy()
        place = frame[y : y + side, x : x + side].astype(np.float32)
        place *= 1 - shadow[..., None]
        frame[y : y + side, x : x + side] = np.clip(place * (1 - small[..., None]) + colour * small[..., None], 0, 255).astype(np.uint8)
        out.append(frame)
    return out


def is_visible(frames: list[np.ndarray], marked: list[np.ndarray]) -> bool:
    """Whether the mark changes what it covers by 20 levels on average: less is hard to see for people, too."""
    change = np.mean([cv2.absdiff(a, b).max(2) for a, b in zip(frames[::8], marked[::8], strict=True)], axis=0)
    return bool(change.max() > 8 and change[change > 8].mean() >= 20)


def frames_of(path: Path) -> list[np.ndarray]:
    """The first 8 s of a video, upright RGB, twelve frames a second, long side 640 px."""
    found: list[np.ndarray] = []
    start = None
    for source, pts_us in decode.decode(str(path), media.MediaConfig()):
        start = pts_us if start is None else start
        if pts_us - start >= SECONDS * 1_000_000:
            break
        if pts_us - start >= len(found) * 1_000_000 // FPS:
            scale = min(1.0, LONG_SIDE_PX / max(source.width, source.height))
            size = (round(source.width * scale / 2) * 2, round(source.height * scale / 2) * 2)
            rgb = source.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray()
            found.append(np.ascontiguousarray(orientation(source).apply(rgb)))
    return found


def keyframes(frames: list[np.ndarray], crf: int = 26) -> list[KeyFrame]:
    """The key frames that a scan keeps of the frames as H.264."""
    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    observer, small = KeyFrameObserver("a", width, height), SmallFrames(width, height)
    with av.open(io.BytesIO(file.getvalue())) as container:
        for i, source in enumerate(container.decode(video=0)):
            observer.push(small(source, i * 1_000_000 // FPS))
    return observer.keyframes
