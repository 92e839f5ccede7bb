"""Generated joins of real clips whose boundaries are known: hard cuts, dissolves, fades and wipes between moving shots, in real files.

Sources are the single shots of the labelled videos and the pictures of the test media, split into `tune` and `score` by a hash of their
content's name, so that nothing that is scored was tuned on. Shots move as real ones do, and also hold what is no boundary: flashes, whip
pans, quick zooms, shaking, changes of light, titles that come and go, a hand over the lens. Every draw is keyed: the same number gives
the same file. Files are of constant or variable rate (frames dropped, or at uneven steps), 12 to 60 frames a second, 160 x 90 px.
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

SOURCE = (240, 136)  # px: shots are rendered from more than they show, so that the camera can move
SIZE = (160, 90)
KINDS = ("hard", "dissolve", "fade_black", "fade_white", "wipe", "soft_wipe", "iris")
Half = Literal["tune", "score"]
NO_SINGLE_VIEW = ("gyro_rolling",)
"""Content that is no plain shot: a stabiliser's output whose picture tumbles out of a black frame, edited at every moment."""


@dataclass(frozen=True, slots=True)
class Source:
    """One real shot: RGB frames [n, h, w, 3] of SOURCE size at their times in s from the first, or one picture."""

    name: str
    frames: np.ndarray
    times: np.ndarray


@dataclass(frozen=True, slots=True)
class Boundary:
    """A join: times in us of the first frame that is not purely the old shot, and of the first that is purely the new one."""

    kind: str
    start_us: int
    end_us: int


@dataclass(slots=True)
class Joined:
    """One generated video."""

    frames: list[np.ndarray] = field(default_factory=list)  # RGB [SIZE]
    times_us: list[int] = field(default_factory=list)
    truth: list[Boundary] = field(default_factory=list)
    variable: bool = False
    fps: float = 0.0


def content_of(name: str, groups: dict[str, str]) -> str:
    """The name of a file's content: its group of copies, else the first two words of its name."""
    return groups.get(name) or "_".join(Path(name).stem.split("_")[:2])


def half_of(content: str) -> Half:
    """Which half the content belongs to, for ever."""
    return "tune" if hashlib.sha256(content.encode()).digest()[0] % 2 else "score"


def copy_groups(media: Path) -> dict[str, str]:
    """The group of copies of each file that has some."""
    groups = json.loads((media / "duplicates.json").read_text())["groups"]
    return {name: g["group"] for g in groups for name in (g["reference"], *g["members"])}


def sources(media: Path, half: Half, most: int = 40) -> list[Source]:
    """Real shots of at least 2.2 s and pictures of that half, one file a content and at most two shots each; single-shot files first."""
    groups, taken, found = copy_groups(media), set[str](), list[Source]()
    entries = json.loads((media / "cuts.json").read_text())["entries"]
    for entry in sorted(entries, key=lambda e: (bool(e["cuts"]), e["file"])):
        content = content_of(entry["file"], groups)
        if half_of(content) != half or content in taken or content in NO_SINGLE_VIEW or len(found) >= most:
            continue
        parts = _single_shots(entry)
        found += [s for s in (load(media, entry["file"], a, b) for a, b in parts[:2]) if s is not None]
        taken.add(content)
    pictures = {p.stem.split("_")[0]: p for p in sorted((media / "image").iterdir(), reverse=True)}  # one of each content
    for content, path in sorted(pictures.items()):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if half_of(content) == half else None
        if picture is not None and min(picture.shape[:2]) >= 90:
            rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            found.append(Source(path.stem, _filled(rgb, SOURCE)[None], np.zeros(1)))
    drawn = range(4) if half == "tune" else range(100, 102)
    return found + [Source(f"clouds {key}", _clouds(key)[None], np.zeros(1)) for key in drawn]


def _clouds(key: int) -> np.ndarray:
    """A soft picture of coloured clouds, RGB of SOURCE size: panned, it mixes like a dissolve."""
    rng = np.random.Generator(np.random.Philox(key=key))
    rows = int(rng.integers(6, 18))
    coarse = rng.integers(0, 256, (rows, rows * 16 // 9, 3)).astype(np.uint8)
    return cv2.resize(coarse, SOURCE, interpolation=cv2.INTER_LINEAR if key % 2 else cv2.INTER_CUBIC)


def _single_shots(entry: dict[str, Any]) -> list[tuple[int, int]]:
    """Spans of frames that hold no boundary and nothing ambiguous, at least 66 frames long, longest first."""
    edges = [(0, 0), *((c.get("start", c["frame"]), c["frame"]) for c in entry["cuts"])]
    edges += [(a["start"], a["end"]) for a in entry["ambiguous"]] + [(entry["n_frames"], entry["n_frames"])]
    edges.sort()
    spans = [(a[1] + 2, b[0] - 2) for a, b in itertools.pairwise(edges)]
    return sorted([s for s in spans if s[1] - s[0] >= 66], key=lambda s: s[0] - s[1])


def load(media: Path, name: str, first: int, end: int, most: int = 180) -> Source | None:
    """Frames first … end of a video, at most so many; None where they last less than 2 s."""
    from curation.decode import decode
    from curation.media import MediaConfig
    from curation.orientation import orientation

    frames, times = [], []
    for i, (frame, pts_us) in enumerate(decode(str(media / name), MediaConfig())):
        if i >= min(end, first + most):
            break
        if i >= first:
            rgb = orientation(frame).apply(frame.reformat(320, 180, "rgb24").to_ndarray())
            frames.append(_filled(np.ascontiguousarray(rgb), SOURCE))
            times.append(pts_us / 1e6)
    if not times or times[-1] - times[0] < 2.0:
        return None
    return Source(f"{name}@{first}", np.stack(frames), np.array(times) - times[0])


def _filled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of the picture at that aspect and size."""
    height, width = picture.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    big = cv2.resize(picture, (max(size[0], round(width * scale)), max(size[1], round(height * scale))), interpolation=cv2.INTER_AREA)
    top, left = (big.shape[0] - size[1]) // 2, (big.shape[1] - size[0]) // 2
    return np.ascontiguousarray(big[top : top + size[1], left : left + size[0]])


class Camera:
    """A source seen by a camera that moves, with disturbances: picture at any time, RGB float32."""

    def __init__(self, source: Source, rng: np.random.Generator, calm: bool = False) -> None:
        self._source, self._rng = source, rng
        still = len(source.times) == 1
        self._length = float(source.times[-1])
        self._offset = float(rng.uniform(0, self._length))
        move = rng.choice(["none", "pan", "zoom", "shake", "whip", "quick_zoom"], p=[0.35, 0.2, 0.15, 0.12, 0.12, 0.06])
        self._move = "none" if calm else ("pan" if still and move == "none" and rng.random() < 0.6 else move)
        self._speed = rng.choice([8.0, 20.0, 45.0]) * rng.uniform(-1, 1, 2)  # px a second
        self._soft = float(rng.choice([0.0, 1.5, 4.0], p=[0.75, 0.15, 0.1]))  # px: out of focus
        self._zoom = rng.uniform(-0.12, 0.12)
        self._at = rng.uniform(0.4, 2.2)  # s: when something sudden happens
        self._whip = rng.uniform(0.15, 0.4)  # s
        self._jolts = rng.normal(0, rng.uniform(0.5, 4), (256, 2))
        what = ["nothing", "flash", "title", "light", "hand", "flicker"]
        self._what = "nothing" if calm else rng.choice(what, p=[0.5, 0.14, 0.14, 0.1, 0.08, 0.04])
        self._flash = rng.choice([20.0, 255.0, 400.0]), rng.integers(1, 4)
        self._hold, self._fade = rng.uniform(0.5, 1.5), rng.choice([0.001, 0.2, 0.5])
        self._text = str(rng.choice(["NEWS AT TEN", "Chapter 2", "IMAGINE THIS", "a film by", "BREAKING"]))
        self._gain = rng.uniform(0.4, 1.5)
        self._colour = rng.uniform(10, 60)

    def picture(self, t: float, step: float) -> np.ndarray:
        """The picture at t seconds from the shot's beginning, for a frame of `step` seconds."""
        # The source plays to and fro for as long as it is asked to.
        at = (self._offset + t) % (2 * self._length) if self._length else 0.0
        at = 2 * self._length - at if at > self._length else at
        index = max(0, int(np.searchsorted(self._source.times, at + 1e-4, side="right")) - 1)
        return self._disturbed(self._seen(self._source.frames[index], t), t, step)

    def _seen(self, full: np.ndarray, t: float) -> np.ndarray:
        x, y, scale = 0.0, 0.0, 1.0
        if self._move == "pan":
            x, y = (_to_and_fro(v * t, room) for v, room in zip(self._speed, (38.0, 22.0), strict=True))
        elif self._move == "zoom":
            scale = 1 + self._zoom * t
        elif self._move == "shake":
            x, y = self._jolts[int(t * 25) % 256]
        elif self._move == "whip":
            x = 76 * (np.clip((t - self._at) / self._whip, 0, 1) - 0.5) * np.sign(self._speed[0])
        elif self._move == "quick_zoom":
            scale = 1 - 0.3 * float(np.clip((t - self._at) / self._whip, 0, 1))
        scale = float(np.clip(scale, 0.62, 1.35))
        w, h = SIZE[0] * scale, SIZE[1] * scale
        left = float(np.clip((SOURCE[0] - w) / 2 + x, 0, max(0.0, SOURCE[0] - w)))
        top = float(np.clip((SOURCE[1] - h) / 2 + y, 0, max(0.0, SOURCE[1] - h)))
        matrix = np.array([[scale, 0, left], [0, scale, top]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(full, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)
        if self._soft:
            seen = cv2.GaussianBlur(seen, (0, 0), self._soft)
        if self._move == "whip" and self._at < t < self._at + self._whip:
            seen = cv2.blur(seen, (9, 1))
        return seen.astype(np.float32)

    def _disturbed(self, seen: np.ndarray, t: float, step: float) -> np.ndarray:
        since = t - self._at
        if self._what == "flash" and 0 <= since < self._flash[1] * step - 1e-6:
            return seen * 0.3 + self._flash[0] * 0.7
        if self._what == "title" and 0 <= since < self._hold + 2 * self._fade:
            shown = min(1.0, since / self._fade, (self._hold + 2 * self._fade - since) / self._fade)
            over = cv2.putText(
                np.clip(seen, 0, 255).astype(np.uint8), self._text, (12, 56), cv2.FONT_HERSHEY_DUPLEX, 0.7, (250, 250, 250), 2
            )
            return seen * (1 - shown) + over * shown
        if self._what == "light":
            return seen * (1 + (self._gain - 1) * float(np.clip(since / 0.7, 0, 1)))
        if self._what == "hand" and 0 <= since < 0.9:
            edge = SIZE[0] * min(1.0, since / 0.2, (0.9 - since) / 0.2)
            cover = np.clip(edge - np.arange(SIZE[0], dtype=np.float32), 0, 8)[None, :, None] / 8
            return seen * (1 - cover) + np.array([1.6, 1.1, 0.9], np.float32) * self._colour * cover
        if self._what == "flicker":
            return seen * (1 + 0.12 * float(np.sin(t * 40)))
        return seen


def _to_and_fro(x: float, room: float) -> float:
    """Where something is after x px that turns round at -room and room."""
    return float(abs((x + room) % (4 * room) - 2 * room) - room)


def mixed(kind: str, a: np.ndarray, b: np.ndarray, share: float, angle: float) -> np.ndarray:
    """The frame of a transition at that share (0 to 1) of its way from a to b."""
    if kind == "dissolve":
        return a * (1 - share) + b * share
    if kind in ("fade_black", "fade_white"):
        level = 0.0 if kind == "fade_black" else 255.0
        left = np.clip(1 - 2.2 * share, 0, 1) if share < 0.5 else np.clip(1 - 2.2 * (1 - share), 0, 1)
        return (a if share < 0.5 else b) * left + level * (1 - left)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]].astype(np.float32)
    x, y = x / SIZE[0] - 0.5, y / SIZE[1] - 0.5
    if kind == "iris":
        way = np.sqrt(x * x + y * y) / 0.7072
    else:
        way = x * np.cos(angle) + y * np.sin(angle)
        reach = 0.5 * (abs(np.cos(angle)) + abs(np.sin(angle)))
        way = (way + reach) / (2 * reach)
    soft = 0.25 if kind == "soft_wipe" else 0.01
    cover = np.clip((share * (1 + soft) - way) / soft, 0, 1)[..., None]
    return a * (1 - cover) + b * cover


def make(shots: list[Source], key: int, joins: int = 4, calm: bool = False) -> Joined:
    """Video number `key` with so many joins between shots of 1.3 to 3.5 s."""
    rng = np.random.Generator(np.random.Philox(key=key))
    fps = float(rng.choice([12, 15, 24, 25, 30, 30, 50, 60]))
    joined = Joined(variable=bool(key % 2), fps=fps)
    order = rng.permutation(len(shots))[: joins + 1]
    seen = [Camera(shots[i], rng, calm) for i in order]
    kinds = [str(rng.choice(KINDS, p=[0.4, 0.24, 0.08, 0.04, 0.12, 0.06, 0.06])) for _ in range(joins)]
    plan, at = [], 0.0
    for kind in kinds:
        start = at + float(rng.uniform(1.3, 7.0 if rng.random() < 0.25 else 3.5))
        length = 0.0 if kind == "hard" else float(np.exp(rng.uniform(np.log(0.2), np.log(2.0))))
        plan.append((kind, start, start + length, float(rng.uniform(0, 2 * np.pi))))
        at = start + length
    times = _frame_times(rng, fps, at + float(rng.uniform(1.3, 3.0)), joined.variable)
    over = _overlay(rng)
    for t in times.tolist():
        number = sum(t >= p[2] for p in plan)
        begin = plan[number - 1][1] if number else 0.0
        frame = seen[number].picture(t - begin, 1 / fps)
        if number < joins and plan[number][1] < t:
            kind, start, end, angle = plan[number]
            frame = mixed(kind, frame, seen[number + 1].picture(t - start, 1 / fps), (t - start) / (end - start), angle)
        if over is not None:
            frame = frame * (1 - over[0]) + over[1] * over[0]
        joined.frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        joined.times_us.append(round(t * 1000) * 1000)
    stamps = np.array(joined.times_us)
    for kind, start, end, _ in plan:
        first = stamps[np.searchsorted(times, start, side="left" if kind == "hard" else "right")]
        after = stamps[np.searchsorted(times, end, side="left")]
        joined.truth.append(Boundary("hard" if after <= first else kind, int(first), int(after)))
    return joined


def _overlay(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """What one video in three shows all through, whatever is under it, as (cover [h, w, 1], picture): a title, a logo, bars."""
    kind = rng.choice(["none", "title", "logo", "bars"], p=[0.65, 0.12, 0.13, 0.1])
    drawn = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    light = float(rng.choice([20, 240]))
    if kind == "none":
        return None
    if kind == "title":
        cv2.putText(
            drawn,
            str(rng.choice(["1 GOAL", "IMAGINE", "THE END", "LIVE"])),
            (22, int(rng.integers(40, 84))),
            cv2.FONT_HERSHEY_DUPLEX,
            0.9,
            255,
            2,
        )
    elif kind == "logo":
        cv2.circle(drawn, (int(rng.choice([16, 144])), int(rng.choice([14, 76]))), 9, 255, -1)
    else:
        bar = int(rng.integers(6, 16))
        drawn[:bar], drawn[-bar:], light = 255, 255, 16.0
    cover = drawn.astype(np.float32)[..., None] / 255
    return cover, np.full((*cover.shape[:2], 3), light, np.float32)


def _frame_times(rng: np.random.Generator, fps: float, end: float, variable: bool) -> np.ndarray:
    """Times in s on a grid of 1 ms: even, or uneven by dropped frames or by jitter."""
    times = np.arange(0, end, 1 / fps)
    if variable and rng.random() < 0.5:
        kept = rng.random(len(times)) > 0.3
        kept[0] = True
        times = times[kept]
    elif variable:
        times = np.cumsum(rng.choice([0.6, 1.0, 1.0, 1.8], len(times)) / fps)
    return np.unique(np.round(times * 1000)) / 1000


def write(joined: Joined, path: Path, crf: int = 24) -> None:
    """The video as an H.264 Matroska file with its own times."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(joined.fps))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": str(crf)}
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, t in zip(joined.frames, joined.times_us, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = t // 1000, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def videos(media: Path, half: Half, folder: Path, count: int, first_key: int, each: Callable[[Joined, Path], None]) -> None:
    """Generated videos number first_key … of that half, one at a time on disk, handed to `each`."""
    shots = sources(media, half)
    for key in range(first_key, first_key + count):
        joined = make(shots, key)
        path = folder / f"joined_{key}.mkv"
        write(joined, path)
        each(joined, path)
        path.unlink()
