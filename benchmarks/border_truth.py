"""Videos and stills with borders whose size is known, and without: real clips and pictures, put behind drawn borders and compressed.

A `Variant` is a description drawn from its number alone; `frames` draws it over a base, and `track_of` compresses it with x264, decodes it
and shows it to the observer, as a scan would.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from curation import decode, media
from curation.borders import BordersObserver, border_track_of_picture
from curation.observe import SmallFrames
from curation.orientation import orientation
from curation.tracks import Track

CLEAN = (
    "bbb_rabbit_720p_13s", "bikes_10s", "climbing_portrait", "dog_in_bed_720p", "doorknob_hd", "fishes", "flies_static", "gopher_portrait",
    "hdr10_av1_portrait", "intel_bottles_static", "london_pan_240p60", "london_zoom_360p", "marathon", "mdn_flower", "mdn_rabbit_320",
    "mdn_stream", "nasa_13013", "pattern_hd", "phone_rot180_shaky", "sam2_blocks", "sam2_dog", "sam2_juggle", "sea_360p", "seattle_shaky_pan",
    "selfie_rot90_1440x1080", "traffic_720p", "tree_static_240p", "chrome_ad_first4s", "bbb_intro_800x640_4s",
)  # fmt: skip
"""Real videos without borders, of many cameras: negatives as they are, and the pictures behind drawn borders."""

MOVING = (
    "bikes_10s",
    "climbing_portrait",
    "hdr10_av1_portrait",
    "london_pan_240p60",
    "phone_rot180_shaky",
    "seattle_shaky_pan",
    "pattern_hd",
)
"""Of these, the ones whose whole picture moves: a still graphic around a picture is told from it by motion along the whole line."""

N_FRAMES, FPS = 16, 5
SIZES = ((480, 270), (426, 240), (360, 270), (640, 360), (270, 480), (320, 240))

BORDERED = ("letterbox", "pillarbox", "window", "one", "blurred", "frame", "frame_still")
PLAIN = ("clip", "vignette", "fade", "title", "skyline", "horizon", "dark", "logo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One generated video or still; sides in px of its size."""

    number: int
    kind: str
    width: int
    height: int
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    colour: tuple[int, int, int] = (0, 0, 0)
    crf: int = 23
    noise: float = 0.0
    logo: bool = False
    subtitles: bool = False
    still: bool = False

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Top, bottom, left, right."""
        return self.top, self.bottom, self.left, self.right

    @property
    def share(self) -> float:
        """The share of the picture under borders."""
        return 1 - (self.height - self.top - self.bottom) * (self.width - self.left - self.right) / (self.width * self.height)


def variant(number: int) -> Variant:
    """The variant of a number: three in five have borders, of 2.5 to 40 % of the side."""
    rng = np.random.Generator(np.random.Philox(key=(number, 77)))
    kind = str(rng.choice(BORDERED if number % 5 < 3 else PLAIN))
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    colour = [(0, 0, 0), (0, 0, 0), (255, 255, 255), (128, 128, 128), tuple(int(c) for c in rng.integers(0, 256, 3))][int(rng.integers(5))]
    common = {
        "crf": int(rng.choice([18, 28, 36, 42])),
        "noise": float(rng.choice([0, 0, 0, 2, 5])),
        "logo": bool(rng.random() < 0.15),
        "subtitles": kind == "letterbox" and bool(rng.random() < 0.3),
        "still": bool(rng.random() < 0.15) and kind not in ("frame", "frame_still", "fade"),
    }
    if kind not in BORDERED:
        return Variant(number=number, kind=kind, width=width, height=height, colour=colour, **common)  # type: ignore[arg-type]
    sides = _sides(kind, width, height, rng)
    return Variant(number=number, kind=kind, width=width, height=height, colour=colour, **sides, **common)  # type: ignore[arg-type]


def _sides(kind: str, width: int, height: int, rng: np.random.Generator) -> dict[str, int]:
    shares = np.exp(rng.uniform(np.log(0.025), np.log(0.4), 2))
    across, down = int(shares[0] * width), int(shares[1] * height)
    soft = np.exp(rng.uniform(np.log(0.06), np.log(0.36), 2))
    if kind == "letterbox":
        return {"top": down, "bottom": down}
    if kind == "pillarbox":
        return {"left": across, "right": across}
    if kind == "window":
        return {"top": down, "bottom": down, "left": across, "right": across}
    if kind == "one":
        side = str(rng.choice(["top", "bottom", "left", "right"]))
        return {side: down if side in ("top", "bottom") else across}
    if kind == "blurred":
        upright = height > width
        size = int(soft[0] * (height if upright else width))
        return {"top": size, "bottom": size} if upright else {"left": size, "right": size}
    around = bool(rng.random() < 0.6)
    return {"left": int(soft[0] * width), "right": int(soft[0] * width)} | (
        {"top": int(soft[1] * height), "bottom": int(soft[1] * height)} if around else {}
    )


def bases(folder: Path) -> dict[str, list[np.ndarray]]:
    """Up to N_FRAMES RGB frames, 5 a second and at most 640 px, of each real video that is there, by name."""
    found = {}
    for name in CLEAN:
        path = next(iter(sorted((folder / "video").glob(f"{name}.*"))), None)
        if path is None:
            continue
        frames: list[np.ndarray] = []
        next_us = None
        for source, pts in decode.decode(str(path), media.MediaConfig()):
            if next_us is not None and pts < next_us:
                continue
            next_us = pts + 1_000_000 // FPS
            rgb = orientation(source).apply(source.to_ndarray(format="rgb24"))
            scale = 640 / max(rgb.shape[:2])
            frames.append(
                cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else np.ascontiguousarray(rgb)
            )
            if len(frames) == N_FRAMES:
                break
        found[name] = frames
    return found


def base_of(v: Variant, found: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """The real video that lies under a variant."""
    names = [n for n in found if v.kind != "frame" or n in MOVING]
    return found[names[v.number % len(names)]]


def frames(v: Variant, base: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The RGB frames of the variant over a base."""
    rng = np.random.Generator(np.random.Philox(key=(v.number, 78)))
    pictures = [base[i % len(base)] for i in range(N_FRAMES)] if not v.still else [base[0]] * N_FRAMES
    inner = v.width - v.left - v.right, v.height - v.top - v.bottom
    graphic = _graphic(v, rng) if v.kind.startswith("frame") else None
    softness = rng.uniform(0.012, 0.03) * max(v.width, v.height), rng.uniform(0.5, 1.0)
    out = []
    for i, picture in enumerate(pictures):
        content = _cover(picture, *inner)
        if v.kind == "blurred":
            canvas = (cv2.GaussianBlur(_cover(content, v.width, v.height), (0, 0), softness[0]) * softness[1]).astype(np.uint8)
        elif graphic is not None:
            canvas = graphic.copy()
        else:
            canvas = np.full((v.height, v.width, 3), v.colour, np.uint8)
        canvas[v.top : v.height - v.bottom, v.left : v.width - v.right] = content
        canvas = _scene(v, canvas, i)
        if v.logo:
            _draw_logo(v, canvas)
        if v.subtitles and v.bottom > 0.08 * v.height:
            words = ("and then he said", "nothing at all", "we should have left earlier")[i // 6 % 3]
            size = v.bottom / 60
            light = (255, 255, 255) if sum(v.colour) < 400 else (0, 0, 0)
            at = (int(v.width * 0.2), v.height - int(v.bottom * 0.4))
            cv2.putText(canvas, words, at, cv2.FONT_HERSHEY_SIMPLEX, min(size, v.width / 560), light, 1, cv2.LINE_AA)
        if v.noise:
            canvas = np.clip(canvas + rng.normal(0, v.noise, canvas.shape[:2])[..., None], 0, 255).astype(np.uint8)
        out.append(canvas)
    return out


def is_visible(v: Variant, base: Sequence[np.ndarray], shown: Sequence[np.ndarray] | None = None) -> bool:
    """Whether the picture differs from each border by 10 levels along a third of its line or more, in some frame: black before a black scene
    is no border that could be seen, nor is one past which a thing moves bit by bit.

    `shown` are the frames as coded, where they are: what the coder smeared away is no border either. There the means of 4 px on both sides
    are to differ so in a quarter of the frames, as its blocks have edges of their own now and then.
    """
    clean = np.stack(frames(replace(v, noise=0.0, logo=False, subtitles=False), base)[: 1 if v.still else N_FRAMES])
    if not all(seen.any() for seen in _seen(v, clean, px=1, gap=1)):
        return False
    return shown is None or all(seen.mean() >= 0.25 for seen in _seen(v, np.stack(shown), px=4, gap=0))


def _seen(v: Variant, pictures: np.ndarray, px: int, gap: int) -> list[np.ndarray]:
    """Of each border, in which frames the means of so many px on both sides of its line do, the inner ones so many px behind it."""
    grey = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    upright, across = grey[:, :, v.left : v.width - v.right], grey[:, v.top : v.height - v.bottom].swapaxes(1, 2)
    sides = ((v.top, upright), (v.bottom, upright[:, ::-1]), (v.left, across), (v.right, across[:, ::-1]))
    steps = [np.abs(p[:, max(0, n - px) : n].mean(1) - p[:, n + gap : n + gap + px].mean(1)) for n, p in sides if n]
    return [(step > 10).mean(1) >= 1 / 3 for step in steps]


def _cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of the picture, scaled to fill the size."""
    h, w = picture.shape[:2]
    scale = max(width / w, height / h)
    big = cv2.resize(picture, (max(width, round(w * scale)), max(height, round(h * scale))), interpolation=cv2.INTER_AREA)
    y, x = (big.shape[0] - height) // 2, (big.shape[1] - width) // 2
    return np.asarray(big[y : y + height, x : x + width])


def _graphic(v: Variant, rng: np.random.Generator) -> np.ndarray:
    """A patterned frame: stripes, dots, a gradient or a texture of two colours, with a name on it."""
    y, x = np.mgrid[: v.height, : v.width]
    first, second = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    pattern = int(rng.integers(4))
    period = rng.integers(8, 40)
    if pattern == 0:
        mask = ((x + y) // period % 2).astype(np.float32)
    elif pattern == 1:
        mask = ((x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (period / 4) ** 2).astype(np.float32)
    elif pattern == 2:
        mask = ((x + 2 * y) / (v.width + 2 * v.height)).astype(np.float32)
    else:
        mask = cv2.resize(rng.random((12, 20)).astype(np.float32), (v.width, v.height), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(mask[..., None] * first + (1 - mask[..., None]) * second, 0, 255).astype(np.uint8)
    cv2.putText(picture, "CHANNEL 5", (6, max(14, v.top - 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _draw_logo(v: Variant, canvas: np.ndarray) -> None:
    """A channel's mark: in the widest border, where there is one, else in a corner of the picture."""
    size = max(5, min(max(v.sides), 60) * 2 // 5) if max(v.sides) else 16
    x = v.left // 2 if v.left >= max(v.sides) and v.left else v.width - (v.right // 2 if v.right else 2 * size)
    y = v.top // 2 if v.top else v.height - v.bottom // 2 if v.bottom else 2 * size
    cv2.circle(canvas, (x, y), size, (200, 40, 40), -1)
    cv2.circle(canvas, (x, y), size // 2, (250, 250, 250), -1)


def _scene(v: Variant, canvas: np.ndarray, i: int) -> np.ndarray:
    """What looks like a border and is none."""
    y, x = np.mgrid[: v.height, : v.width].astype(np.float32)
    if v.kind == "vignette":
        radius = ((x - v.width / 2) / v.width) ** 2 + ((y - v.height / 2) / v.height) ** 2
        return (canvas * np.clip(1.25 - 3 * radius, 0, 1)[..., None]).astype(np.uint8)
    if v.kind == "fade":
        return (canvas * min(1.0, i / 8)).astype(np.uint8)
    if v.kind == "dark":
        spot = np.exp(-((x - v.width * 0.4) ** 2 + (y - v.height * 0.5) ** 2) / (0.04 * v.width * v.height))
        return (canvas * (0.02 + 0.9 * spot)[..., None]).astype(np.uint8)
    if v.kind == "skyline":
        edge = v.height * (0.3 + 0.05 * np.sin(x / 17) + 0.04 * np.sign(np.sin(x / 31)))
        return np.where((y < edge)[..., None], np.array([225, 238, 250], np.uint8), canvas).astype(np.uint8)
    if v.kind == "horizon":
        sky = 250 - 60 * y / v.height + 20 * x / v.width
        return np.where((y < 0.35 * v.height)[..., None], np.clip(sky, 0, 255)[..., None].astype(np.uint8), canvas).astype(np.uint8)
    if v.kind == "title":
        card = np.full_like(canvas, v.colour)
        light = (255, 255, 255) if sum(v.colour) < 400 else (0, 0, 0)
        for k, words in enumerate(("A FILM ABOUT BORDERS", "that are not there")):
            cv2.putText(
                card, words, (v.width // 12, v.height // 2 - 10 + 34 * k), cv2.FONT_HERSHEY_SIMPLEX, v.width / 480, light, 2, cv2.LINE_AA
            )
        return card
    return canvas


def coded(v: Variant, base: Sequence[np.ndarray]) -> list[av.VideoFrame]:
    """The frames of the variant as they come out of H.264; none for every second still, which is not coded."""
    if v.still and v.number % 2:
        return []
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = v.width, v.height, "yuv420p"
        stream.options = {"preset": "ultrafast" if v.number % 4 else "medium", "crf": str(v.crf), "threads": "1"}
        stream.codec_context.time_base = Fraction(1, FPS)
        for i, picture in enumerate(frames(v, base)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(io.BytesIO(file.getvalue())) as container:
        return list(container.decode(video=0))


def track_of(v: Variant, base: Sequence[np.ndarray], shown: Sequence[av.VideoFrame] | None = None) -> Track:
    """What the scan would leave of the variant; `shown` are its frames as coded, where they are there already."""
    shown = coded(v, base) if shown is None else shown
    if not shown:
        return border_track_of_picture(frames(v, base)[0])
    observer, small = BordersObserver(), SmallFrames(v.width, v.height)
    for i, source in enumerate(shown):
        observer.push(small(source, i * 1_000_000 // FPS))
    return observer.finish()[0]
