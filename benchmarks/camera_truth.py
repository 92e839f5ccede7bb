"""Camera movements whose truth is known: a pinhole camera moves through a small world of textured planes at several depths.

World and camera: x right, y down, z ahead; lengths in metres, the floor lies a metre or two below the camera. Every clip follows from its
number by a keyed draw. Frames are luma alone, of the size that observers see, and are drawn only when one is looked at.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, cast

import cv2
import numpy as np

from curation.camera import CLASSES
from curation.observe import Frame, fit

MIXED = "mixed"
"""Two movements of like strength, at once or one after the other: no class is right."""

_FINE = 2  # drawn at so many px a px of the small frame, then averaged
_TILE = 512

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A textured plane: `origin` + s * `across` + t * `along`, s and t in texture px; `cover` [h, w] in 0..1 for a thing with an outline."""

    origin: np.ndarray
    across: np.ndarray
    along: np.ndarray
    texture: np.ndarray
    cover: np.ndarray | None = None
    path: Callable[[float], np.ndarray] | None = None  # where it has gone after t seconds
    haze_m: float = 0.0  # the picture of an endless floor fades with distance, or it would flicker


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """The camera: place, turn to the right, turn up, roll (radians), focal length in picture widths."""

    at: np.ndarray
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    focal: float = 1.0


@dataclass(kw_only=True)
class Take:
    """One clip: what the camera does in truth, and how to draw it."""

    number: int
    label: str
    fps: float
    seconds: float
    width: int  # of the small frame
    height: int
    planes: list[Plane]
    pose: Callable[[float], Pose]
    noise: float = 0.0
    light: Callable[[float], float] = field(default=lambda t: 1.0)
    words: str = ""
    bars: int = 0  # rows of black at the top and the bottom
    flat: bool = False

    def frames(self) -> Iterator[Frame]:
        """The frames in order, drawn when their luma is looked at."""
        for i in range(int(self.seconds * self.fps)):
            yield cast(Frame, _Lazy(take=self, index=i))

    def draw(self, index: int) -> np.ndarray:
        """Luma of frame `index`, uint8 [height, width]."""
        t = index / self.fps
        w, h = self.width * _FINE, self.height * _FINE
        canvas = np.full((h, w), 120, np.float32)
        pose = self.pose(t)
        camera = _camera(pose, w, h)
        for plane in sorted(self.planes, key=lambda p: -_depth(p, pose, t)):
            _paint(canvas, plane, camera, pose, t)
        small = cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA) * self.light(t)
        if self.words:
            letters = np.zeros(small.shape, np.uint8)
            place, size = (self.width // 6, self.height * 5 // 6), self.width / 320
            cv2.putText(letters, self.words, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255,), 1, cv2.LINE_AA)
            small += (235 - small) * (letters / np.float32(255))
        if self.bars:
            small[: self.bars] = small[-self.bars :] = 16
        rng = _rng(self.number, 1000 + index)
        return np.clip(small + rng.standard_normal(small.shape, np.float32) * self.noise, 16, 235).astype(np.uint8)


@dataclass(kw_only=True)
class _Lazy:
    take: Take
    index: int
    repeats: bool = False

    @property
    def pts_us(self) -> int:
        return round(self.index * 1e6 / self.take.fps)

    @cached_property
    def y(self) -> np.ndarray:
        return self.take.draw(self.index)


def take(number: int, label: str | None = None) -> Take:
    """The clip of that number; numbers run through CLASSES and MIXED in turn unless a label is given."""
    label = label or (*CLASSES, MIXED)[number % (len(CLASSES) + 1)]
    rng = _rng(number, 0)
    aspect = float(rng.choice([16 / 9, 16 / 9, 4 / 3, 1.0, 2.35, 9 / 16]))
    width, height = fit(round(640 * min(1.0, aspect)), round(640 * min(1.0, 1 / aspect)), int(rng.choice([160, 160, 160, 128])))
    seconds, fps = rng.uniform(2.2, 4.5), float(rng.choice([12, 15, 24, 25, 30, 60]))
    # a turning or zooming camera may stand before a flat picture; a travelling one shows depth
    flat = label.split("_")[0] in ("zoom", "pan", "tilt", "static", "handheld") and rng.random() < 0.4
    focal = rng.uniform(0.7, 1.5) * max(1.0, height / width)
    stage = _Stage(rng=rng, label=label, focal=focal, aspect=height / width, seconds=seconds, flat=flat)
    drift = rng.uniform(-0.12, 0.12) if rng.random() < 0.3 else 0.0
    return Take(
        number=number, label=label, fps=fps, seconds=seconds, width=width, height=height, planes=stage.planes, pose=stage.pose(), flat=flat,
        noise=float(rng.choice([0.0, 1.0, 2.0, 4.0])), light=lambda t: 1 + drift * t / 2 + 0.3 * abs(drift) * math.sin(5 * t),
        words="A title" if rng.random() < 0.12 else "", bars=height // 9 if rng.random() < 0.1 else 0,
    )  # fmt: skip


@dataclass(kw_only=True)
class _Stage:
    """The world of a clip and the camera's way through it."""

    rng: Rng
    label: str
    focal: float
    aspect: float
    seconds: float
    flat: bool
    planes: list[Plane] = field(default_factory=list)
    subject_m: float = 4.0
    tall_m: float = 1.7
    height_m: float = 1.6  # of the camera over the floor
    near_m: float = 2.5  # where things begin
    pace: float = 0.5  # of mixed movements, so that neither is much the stronger

    def pose(self) -> Callable[[float], Pose]:
        """Builds the world and gives the camera's place by time."""
        rng = self.rng
        own = self.label in ("arc_shot", "tracking_shot")
        self.subject_m, self.height_m = rng.uniform(3, 6), rng.uniform(1.2, 2.0)
        if own:  # the picture is about someone, who stands at its middle
            self.tall_m = rng.uniform(0.4, 0.7) * self.subject_m * self.aspect / self.focal
            self.height_m = rng.uniform(0.45, 0.65) * self.tall_m
            self.near_m = self.subject_m + 0.7
        if self.flat:
            self._wall(10.0)
        else:
            self._world()
        start: Callable[[float], Pose] = getattr(self, "_" + (self.label if own or self.label == MIXED else self.label.split("_")[0]))()
        if not own and rng.random() < 0.35:
            self._passer_by(start)
        if self.label == "handheld_shot":
            return start
        # nobody's hand is quite steady, but a tripod's is
        sway = _shake(rng, 0.3, 1.2, 2) if self.label != "static_shot" else (lambda t: np.zeros(3))
        size = rng.uniform(0, 0.001) / self.focal

        def moved(t: float) -> Pose:
            p, s = start(t), sway(t) * size
            return Pose(at=p.at, yaw=p.yaw + s[0], pitch=p.pitch + s[1], roll=p.roll + 0.3 * s[2], focal=p.focal)

        return moved

    def _world(self) -> None:
        rng = self.rng
        sideways = self.label.startswith(("truck", "arc", "tracking"))  # would go through the walls of a street
        kind = rng.choice(["open", "hills", "room"] if sideways else ["open", "street", "hills", "room"])
        self.far_m = rng.uniform(25, 60) if kind != "room" else rng.uniform(7, 11)
        self._wall(self.far_m)
        if kind == "hills":
            count = int(rng.integers(3, 6))
            for k in range(count):
                z = self.far_m * (max(3.0, self.near_m) / self.far_m) ** ((k + 1) / count)
                self._strip(z, rng.uniform(-0.1, 0.02) + 0.45 * self.aspect * (k + 0.3) / count)
        else:
            self._floor()
        if kind == "street":
            for side in (-1, 1):
                x = side * rng.uniform(2.5, 5)
                scale = np.array([0.0, 0.0, 0.012]), np.array([0.0, 0.012, 0.0])
                self.planes.append(_plane(rng, [x, -4.5, -50], *scale, haze_m=25.0, cover=np.ones((512, 10000), np.float32)))
        near = 1.8 if kind == "room" and self.near_m == 2.5 else self.near_m
        for _ in range(int(rng.integers(4, 9))):
            z = near * (min(self.far_m * 0.8, 20) / near) ** rng.random()
            self._thing(z, rng.uniform(-0.9, 0.9) * z / self.focal, rng.uniform(0.5, 2.2))

    def _wall(self, z: float) -> None:
        scale = z / self.focal / 320 * self.rng.uniform(0.8, 1.6)
        self.planes.append(_plane(self.rng, [0, 0, z], np.array([scale, 0, 0]), np.array([0, scale, 0])))

    def _floor(self) -> None:
        scale, haze_m = self.height_m * self.rng.uniform(0.01, 0.025), self.rng.uniform(8, 16) * self.height_m
        self.planes.append(_plane(self.rng, [0, self.height_m, 0], np.array([scale, 0, 0]), np.array([0, 0, scale]), haze_m=haze_m))

    def _strip(self, z: float, top: float) -> None:
        """A row of hills or hedges from `top` (in picture widths below the middle) downwards."""
        scale = z / self.focal / 320 * 1.2
        edge = np.cumsum(self.rng.standard_normal(_TILE))
        edge = edge - np.linspace(edge[0], edge[-1], _TILE)
        rows = np.arange(900)[:, None] > 20 + 0.8 * edge[None]
        cover = np.tile(rows.astype(np.float32), (1, 8))
        origin = [-4 * _TILE * scale, top * z / self.focal, z]
        self.planes.append(_plane(self.rng, origin, np.array([scale, 0, 0]), np.array([0, scale, 0]), cover=cover))

    def _thing(self, z: float, x: float, tall: float, path: Callable[[float], np.ndarray] | None = None) -> None:
        """A thing that stands on the floor at x, z."""
        wide = tall * self.rng.uniform(0.3, 0.9)
        scale = tall / 160
        columns = max(8, int(wide / scale))
        cover = np.zeros((160, columns), np.float32)
        cv2.ellipse(cover, (columns // 2, 90), (columns // 2 - 1, 88), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        origin = [x - wide / 2, self.height_m - tall, z]
        self.planes.append(_plane(self.rng, origin, np.array([scale, 0, 0]), np.array([0, scale, 0]), cover=cover, path=path))

    def _passer_by(self, camera: Callable[[float], Pose]) -> None:
        """Something that crosses the picture by itself, under a sixth of it."""
        rng, z = self.rng, self.rng.uniform(4, 9)
        speed = float(rng.choice([-1, 1])) * rng.uniform(0.1, 0.4) * z / self.focal
        middle = camera(self.seconds / 2)
        x = middle.at[0] + z * math.tan(middle.yaw)
        phase = self.seconds / 2
        self._thing(z, x, min(1.7, 0.3 * z), lambda t: np.array([speed * (t - phase), 0.03 * math.sin(9 * t), middle.at[2]]))

    def _speed(self, low: float, high: float) -> float:
        return float(low * (high / low) ** (self.rng.random() if self.label != MIXED else self.pace))

    def _eased(self) -> Callable[[float], float]:
        """Time that runs a little unevenly, from minus half the clip to half of it, so that the middle of the way is the start pose."""
        bend, phase = self.rng.uniform(0, 0.25), self.rng.uniform(0, 6.28)
        return lambda t: t - self.seconds / 2 + bend * (math.sin(1.5 * t + phase) - math.sin(phase)) / 1.5

    def _sign(self, *positive: str) -> float:
        return 1.0 if self.label.split("_")[-1] in positive else -1.0

    def _zoom(self) -> Callable[[float], Pose]:
        rate, clock = self._sign("in") * self._speed(0.05, min(0.4, 1.2 / self.seconds)), self._eased()
        return lambda t: Pose(at=np.zeros(3), focal=self.focal * math.exp(rate * clock(t)))

    def _pan(self) -> Callable[[float], Pose]:
        rate, clock = self._sign("right") * self._speed(0.06, 0.6) / self.focal, self._eased()
        return lambda t: Pose(at=np.zeros(3), yaw=rate * clock(t), focal=self.focal)

    def _tilt(self) -> Callable[[float], Pose]:
        rate, clock = self._sign("up") * min(self._speed(0.06, 0.5) * self.aspect / self.focal, 1.2 / self.seconds), self._eased()
        return lambda t: Pose(at=np.zeros(3), pitch=rate * clock(t), focal=self.focal)

    def _static(self) -> Callable[[float], Pose]:
        return lambda t: Pose(at=np.zeros(3), focal=self.focal)

    def _handheld(self) -> Callable[[float], Pose]:
        sway, step = _shake(self.rng, 0.6, 4.0, 5), _shake(self.rng, 0.5, 2.0, 3)
        size, walk = self._speed(0.05, 0.35) / self.focal, 0.0 if self.flat else self.rng.uniform(0, 0.03)
        return lambda t: Pose(
            at=step(t) * walk, yaw=sway(t)[0] * size / 9, pitch=sway(t)[1] * size / 9, roll=sway(t)[2] * size / 20, focal=self.focal
        )  # fmt: skip

    def _push(self) -> Callable[[float], Pose]:
        metres = self._speed(0.7, max(1.0, min(2.0, 4.0 / self.seconds))) * self._sign("in")
        clock = self._eased()
        return lambda t: Pose(at=np.array([0, 0, metres * clock(t) - 0.5]), focal=self.focal)

    _pull = _push

    def _truck(self) -> Callable[[float], Pose]:
        metres, clock = self._sign("right") * self._speed(0.06, 0.3) * 6 / self.focal, self._eased()
        return lambda t: Pose(at=np.array([metres * clock(t), 0, 0]), focal=self.focal)

    def _pedestal(self) -> Callable[[float], Pose]:
        most = 1.6 / self.seconds
        metres, clock = -self._sign("up") * min(most, self._speed(0.08, 0.4) * 6 * self.aspect / self.focal), self._eased()
        return lambda t: Pose(at=np.array([0, metres * clock(t), 0]), focal=self.focal)

    def _arc_shot(self) -> Callable[[float], Pose]:
        rate, clock, z = float(self.rng.choice([-1, 1])) * self._speed(0.12, 0.5), self._eased(), self.subject_m
        self._thing(z, 0.0, self.tall_m)
        return lambda t: Pose(
            at=np.array([z * math.sin(rate * clock(t)), 0, z - z * math.cos(rate * clock(t))]), yaw=-rate * clock(t), focal=self.focal
        )  # fmt: skip

    def _tracking_shot(self) -> Callable[[float], Pose]:
        z, clock = self.subject_m, self._eased()
        if self.rng.random() < 0.7:  # beside the subject
            way = np.array([float(self.rng.choice([-1, 1])) * self._speed(0.08, 0.35) * 6 / self.focal, 0, 0])
        else:  # behind or before it
            way = np.array([0, 0, float(self.rng.choice([-1, 1])) * self._speed(0.6, 2.0)])
        bob = self.rng.uniform(0.01, 0.03)
        self._thing(z, 0.0, self.tall_m, lambda t: way * clock(t) + np.array([bob * math.sin(5 * t), bob * abs(math.sin(7 * t)), 0]))
        return lambda t: Pose(at=way * clock(t), focal=self.focal)

    def _mixed(self) -> Callable[[float], Pose]:
        # not a pan with a truck nor a tilt with a pedestal: those go the same way in the picture
        axes = [(self._pan, self._truck), (self._tilt, self._pedestal), (self._zoom,)]
        self.rng.shuffle(axes)
        kinds = [axis[int(self.rng.integers(len(axis)))] for axis in axes[:2]]
        half, self.pace = self.seconds / 2, self.rng.random()
        first, second = (kind() for kind in kinds)
        if self.rng.random() < 0.5:  # at once
            return lambda t: _both(first(t), second(t))
        return lambda t: _both(first(min(t, half)), second(max(t, half)))


def _rng(number: int, part: int) -> Rng:
    return np.random.Generator(np.random.Philox(key=[number, part]))


def _both(a: Pose, b: Pose) -> Pose:
    return Pose(at=a.at + b.at, yaw=a.yaw + b.yaw, pitch=a.pitch + b.pitch, roll=0.0, focal=math.sqrt(a.focal * b.focal))


def _shake(rng: Rng, low_hz: float, high_hz: float, tones: int) -> Callable[[float], np.ndarray]:
    """Three unsteady angles by time; speed of about 1 a second rms at size 1/9, as slower tones swing wider."""
    hz = low_hz * (high_hz / low_hz) ** rng.random((tones, 3))
    phase = rng.uniform(0, 6.28, (tones, 3))
    size = (hz / low_hz) ** -0.5 / tones**0.5
    size *= 9 / np.sqrt(((size * 6.28 * hz) ** 2 / 2).sum(0))
    return lambda t: np.asarray((size * np.sin(6.28 * hz * t + phase)).sum(0))


def _plane(rng: Rng, origin: Any, across: np.ndarray, along: np.ndarray, **more: Any) -> Plane:
    return Plane(origin=np.array(origin, float), across=across, along=along, texture=_texture(rng), **more)


def _texture(rng: Rng) -> np.ndarray:
    """A cloudy tile without seams, float32 [512, 512], levels about 40 to 210."""
    tile = np.roll(_tile(int(rng.integers(40))), tuple(rng.integers(_TILE, size=2)), (0, 1))
    return np.clip(rng.uniform(80, 165) + tile * rng.uniform(14, 34), 20, 230).astype(np.float32)


@cache
def _tile(number: int) -> np.ndarray:
    rng = _rng(number, 1)
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]
    size = np.hypot(fy, fx)
    size[0, 0] = 1.0
    shape = np.where(size > 1 / 160, size ** -rng.uniform(1.0, 1.5), 0) * np.exp(-((size / 0.22) ** 2))
    tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * shape, (_TILE, _TILE))
    return np.asarray(tile / tile.std(), np.float32)


def _camera(pose: Pose, w: int, h: int) -> np.ndarray:
    """World directions to picture px, [3, 3]."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (pose.yaw, pose.pitch, pose.roll) for f in (math.cos, math.sin))
    yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    roll = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    f = pose.focal * w
    return np.asarray(np.array([[f, 0, (w - 1) / 2], [0, f, (h - 1) / 2], [0, 0, 1]]) @ roll @ pitch @ yaw)


def _depth(plane: Plane, pose: Pose, t: float) -> float:
    """How far ahead the plane is, for the order of painting; endless walls first."""
    if plane.cover is None or plane.haze_m:
        return 1e6 - (1.0 if plane.haze_m else 0.0)
    gone = plane.path(t) if plane.path else 0.0
    middle = plane.origin + plane.across * plane.texture.shape[1] / 2 + gone - pose.at
    return float(middle[2] * math.cos(pose.yaw) + middle[0] * math.sin(pose.yaw))


def _paint(canvas: np.ndarray, plane: Plane, camera: np.ndarray, pose: Pose, t: float) -> None:
    """The plane as the camera sees it over what is on the canvas."""
    origin = plane.origin - pose.at + (plane.path(t) if plane.path else 0.0)
    to_picture = camera @ np.stack([plane.across, plane.along, origin], 1)
    if abs(np.linalg.det(to_picture)) < 1e-12:
        return
    rows, columns = (slice(0, n) for n in canvas.shape) if plane.cover is None else _place(to_picture, plane.cover.shape, canvas.shape)
    if (h := rows.stop - rows.start) < 1 or (w := columns.stop - columns.start) < 1:
        return
    back = np.linalg.inv(to_picture) @ np.array([[1, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpPerspective(plane.texture, back, (w, h), flags=flags, borderMode=cv2.BORDER_WRAP)
    nearness = back[2, 0] * np.arange(w)[None] + back[2, 1] * np.arange(h)[:, None] + back[2, 2]  # 1 / metres ahead
    cover = (nearness > 1 / 200).astype(np.float32)
    if plane.cover is not None:
        cover *= cv2.warpPerspective(plane.cover, back, (w, h), flags=flags)
    if plane.haze_m:
        clear = np.exp(-1 / (np.maximum(nearness, 1e-3) * plane.haze_m)).astype(np.float32)
        seen = seen * clear + float(plane.texture.mean()) * (1 - clear)
    part = canvas[rows, columns]
    part += np.where(cover > 0, (seen - part) * cover, 0)  # behind the camera the texture is not a number


def _place(to_picture: np.ndarray, size: tuple[int, ...], canvas: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the canvas in which a thing of that size can be; all of them where it reaches behind the camera."""
    corners = to_picture @ np.array([[0, size[1], 0, size[1]], [0, 0, size[0], size[0]], [1, 1, 1, 1]], float)
    if corners[2].min() < 0.05:
        return (slice(0, 0), slice(0, 0)) if corners[2].max() < 0.05 else (slice(0, canvas[0]), slice(0, canvas[1]))
    low, high = (corners[:2] / corners[2]).min(1), (corners[:2] / corners[2]).max(1)
    first, end = (np.clip(at, 0, canvas[::-1]).astype(int).tolist() for at in (np.floor(low), np.ceil(high) + 1))
    return slice(first[1], end[1]), slice(first[0], end[0])
