"""Copies made of real clips: one small file an edit, for which is known what was done to it."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

Film = list[tuple[float, np.ndarray]]
"""Times in s from 0 on, and RGB pictures."""

LONG_SIDE_PX, SECONDS, LEAST_STEP_S = 360, 5.0, 0.03

SOURCES = (
    "bikes_10s.mp4", "chaplin.mp4", "dog_in_bed_720p.mp4", "fishes.wmv", "marathon.mp4", "mdn_flower.mp4", "sea_360p_10s.mp4",
    "traffic_720p.mp4", "climbing_portrait.mp4", "sam2_dog.mp4", "london_pan_240p60.mp4", "seattle_shaky_pan.avi", "chrome_ad_30s.webm",
    "sam2_juggle.mp4",
)  # fmt: skip
"""Real clips, none a copy of another: moving and still cameras, people, animals, landscapes, portrait and landscape, some with cuts."""


def read(path: Path) -> Film:
    """The first seconds of a video, small."""
    import av

    film: Film = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        first: float | None = None
        for frame in container.decode(stream):
            assert frame.time is not None
            first = frame.time if first is None else first
            at = frame.time - first
            if at > SECONDS:
                break
            if film and at < film[-1][0] + LEAST_STEP_S:
                continue
            scale = min(1.0, LONG_SIDE_PX / max(frame.width, frame.height))
            size = [round(n * scale / 2) * 2 for n in (frame.width, frame.height)]
            film.append((at, frame.reformat(*size, "rgb24").to_ndarray()))
    return film


def write(path: Path, film: Film, crf: int, encoder: str = "libx264", options: dict[str, str] | None = None) -> None:
    """The film as H.264, or by another encoder with its options, with its own times."""
    import av

    height, width = (n // 2 * 2 for n in film[0][1].shape[:2])
    base = Fraction(1, 30_000)  # MPEG-4 takes no finer one
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=30, options={"crf": str(crf), "preset": "veryfast"} if options is None else options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        stream.time_base = stream.codec_context.time_base = base
        for at, picture in film:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = round(at / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _each(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Film], Film]:
    return lambda film: [(at, edit(picture)) for at, picture in film]


def _cut(top: float, bottom: float, left: float, right: float) -> Callable[[Film], Film]:
    def edit(p: np.ndarray) -> np.ndarray:
        h, w = p.shape[:2]
        return p[round(h * top) : h - round(h * bottom), round(w * left) : w - round(w * right)]

    return _each(edit)


def _bars(rows: float, columns: float) -> Callable[[Film], Film]:
    def edit(p: np.ndarray) -> np.ndarray:
        y, x = round(p.shape[0] * rows), round(p.shape[1] * columns)
        return np.pad(p, ((y, y), (x, x), (0, 0)))

    return _each(edit)


def _logo(p: np.ndarray) -> np.ndarray:
    p, (h, w) = p.copy(), p.shape[:2]
    y, x = int(0.05 * h), int(0.8 * w)
    p[y : y + h // 9, x : x + w // 7] = 245
    cv2.putText(p, "TV", (x + 3, y + h // 11), cv2.FONT_HERSHEY_SIMPLEX, h / 400, (10, 10, 200), 2)
    return p


def _bar_over(p: np.ndarray) -> np.ndarray:
    p, h = p.copy(), p.shape[0]
    p[: h // 10] = p[h - h // 10 :] = 0
    return p


def _subtitle(p: np.ndarray) -> np.ndarray:
    p, (h, w) = p.copy(), p.shape[:2]
    cv2.putText(p, "A line of subtitles", (w // 6, int(h * 0.92)), cv2.FONT_HERSHEY_SIMPLEX, h / 350, (255, 255, 255), 2)
    return p


def _small(p: np.ndarray) -> np.ndarray:
    h, w = p.shape[:2]
    return cv2.resize(p, (round(w * 0.2) * 2, round(h * 0.2) * 2), interpolation=cv2.INTER_AREA)


def _tone(contrast: float, gamma: float) -> Callable[[Film], Film]:
    levels = np.clip(138 + (255 * (np.arange(256) / 255) ** gamma - 128) * contrast - 10 * (contrast == 1), 0, 255).astype(np.uint8)
    return _each(lambda p: levels[p])


EDITS: dict[str, tuple[Callable[[Film], Film], int]] = {
    "re-encode": (lambda f: f, 38),
    "resize to 40 %": (_each(_small), 26),
    "logo": (_each(_logo), 26),
    "subtitle": (_each(_subtitle), 26),
    "letterbox": (_bars(0.125, 0), 26),
    "pillarbox": (_bars(0, 0.2), 26),
    "bars over the picture": (_each(_bar_over), 26),
    "grey": (_each(lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)), 26),
    "contrast": (_tone(1.4, 1.0), 26),
    "gamma": (_tone(1.0, 1.6), 26),
    "crop to 95 %": (_cut(0.025, 0.025, 0.025, 0.025), 26),
    "crop to 90 %": (_cut(0.05, 0.05, 0.05, 0.05), 26),
    "crop 7 % at the left": (_cut(0, 0, 0.07, 0), 26),
    "crop 5 % at the right": (_cut(0, 0, 0, 0.05), 26),
    "crop 10 % at the bottom": (_cut(0, 0.1, 0, 0), 26),
    "crop 10 % at a corner": (_cut(0.1, 0, 0, 0.1), 26),
    "trimmed ends": (lambda f: [(at - 0.83, p) for at, p in f if 0.83 <= at <= f[-1][0] - 0.83], 26),
    "speed +5 %": (lambda f: [(at / 1.05, p) for at, p in f], 26),
    "speed -5 %": (lambda f: [(at / 0.95, p) for at, p in f], 26),
    "mirrored": (_each(lambda p: p[:, ::-1]), 26),
    "every third frame": (lambda f: f[1::3], 26),
}
"""What is done to a film, and the quality (x264 crf) it is written in."""
