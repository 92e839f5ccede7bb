"""The pictures behind the sample set: photographs that travel inside the scikit-image wheel, and drawn scenes.

Every picture is an RGB array `[height, width, 3]` of uint8 and depends on its scene and size alone. The photographs are small, so
they are enlarged, sharpened and given a fine grain that belongs to the picture: a synthetic camera over them then shows detail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.ids import digest

Picture = NDArray[np.uint8]

_WHEEL_DOCS = "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data."
_GRAIN = 4.0  # standard deviation in levels of 255: enough that an enlarged photograph is not smooth, too little to see


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a photograph comes from, as the docstrings of scikit-image's data module state it; None where they state nothing."""

    licence: str | None
    creator: str | None
    source_url: str
    people: bool = False


PHOTOGRAPHS: dict[str, Provenance] = {
    "astronaut.png": Provenance(licence="CC-PDM-1.0", creator="NASA", source_url="https://flic.kr/p/r9qvLn", people=True),
    "brick.png": Provenance(licence="CC0-1.0", creator="CC0Textures", source_url="https://cc0textures.com/view.php?tex=Bricks25"),
    "camera.png": Provenance(licence="CC0-1.0", creator="Lav Varshney", source_url=_WHEEL_DOCS + "camera", people=True),
    "chelsea.png": Provenance(licence="CC0-1.0", creator="Stefan van der Walt", source_url=_WHEEL_DOCS + "chelsea"),
    "coffee.png": Provenance(licence="CC0-1.0", creator="Rachel Michetti", source_url=_WHEEL_DOCS + "coffee"),
    # "No known copyright restrictions" is what a museum knows, not a licence
    "coins.png": Provenance(
        licence=None, creator="Brooklyn Museum", source_url="https://www.brooklynmuseum.org/opencollection/archives/image/51611"
    ),
    "grass.png": Provenance(
        licence="CC0-1.0", creator="linolafett", source_url="https://www.deviantart.com/linolafett/art/Grass-01-434853879"
    ),
    "gravel.png": Provenance(licence="CC0-1.0", creator="CC0Textures", source_url="https://cc0textures.com/view.php?tex=Gravel04"),
    "hubble_deep_field.jpg": Provenance(
        licence="CC-PDM-1.0", creator="NASA", source_url="http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/"
    ),
    "rocket.jpg": Provenance(
        licence="CC-PDM-1.0", creator="SpaceX", source_url="https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/"
    ),
}
DRAWN = Provenance(licence="CC0-1.0", creator="dailies sample generator", source_url="")

_PALETTES: dict[str, tuple[int, ...]] = {
    "autumn": (0x7A2E0E, 0xC4581B, 0xE9A23B, 0x5B6B2A, 0xF3DFA2, 0x3A1D10),
    "sea": (0x0B3C5D, 0x1D7A9C, 0x5FC3C6, 0xE8F1F2, 0xF2C14E, 0x07263B),
    "meadow": (0x2E5E1E, 0x6FA32E, 0xC7D94B, 0xF7F3D0, 0xD9486E, 0x183A16),
    "dusk": (0x2B1B4D, 0x6B2E6F, 0xC8506B, 0xF59E6B, 0xFCE0A2, 0x150E2B),
    "ice": (0xDCEBF5, 0xA6C8E0, 0x6E9BC4, 0x3D5A80, 0xFFFFFF, 0x293241),
    "candy": (0xE63B7A, 0xFFC145, 0x3BB0E6, 0x7AE63B, 0xFFF5EE, 0x6A2BD9),
    "desert": (0xC9803F, 0xE8B878, 0x8A4B2A, 0xF6E3C5, 0x4D6E7A, 0x5A2A18),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a shot or an image shows: a part of a photograph (`box` = left, top, right, bottom in its pixels) or a drawing."""

    key: str
    photo: str = ""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    drawing: str = ""
    palette: str = ""

    @property
    def provenance(self) -> Provenance:
        """Where it comes from and under which licence."""
        return PHOTOGRAPHS[self.photo] if self.photo else DRAWN


def paint(scene: Scene, width: int, height: int) -> Picture:
    """The scene at this size in px: `[height, width, 3]` uint8, RGB. The same scene and size give the same picture."""
    rng = keyed(scene.key)
    if scene.photo:
        return _enlarge(_load(scene.photo), scene.box, width, height, rng)
    picture = _DRAWINGS[scene.drawing](rng, width, height, _colours(scene.palette))
    return _grain(picture, rng, _GRAIN)


def keyed(*parts: object) -> np.random.Generator:
    """A random generator whose draws depend on the parts alone."""
    return np.random.Generator(np.random.Philox(key=int(digest("samples", *parts), 16)))


def _load(photo: str) -> Picture:
    from importlib.resources import files

    from PIL import Image

    with files("skimage").joinpath("data", photo).open("rb") as stream, Image.open(stream) as image:
        return np.asarray(image.convert("RGB"))


def _enlarge(photo: Picture, box: tuple[int, int, int, int], width: int, height: int, rng: np.random.Generator) -> Picture:
    """The middle of the box in the asked aspect, enlarged, sharpened and grained."""
    import cv2

    left, top, right, bottom = box if any(box) else (0, 0, photo.shape[1], photo.shape[0])
    scale = max(width / (right - left), height / (bottom - top))
    w, h = round(width / scale), round(height / scale)
    x, y = left + (right - left - w) // 2, top + (bottom - top - h) // 2
    large = cv2.resize(photo[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    if scale > 1:
        large = cv2.addWeighted(large, 1.9, cv2.GaussianBlur(large, (0, 0), scale), -0.9, 0)
    return _grain(np.asarray(large, np.uint8), rng, _GRAIN)


def _grain(picture: Picture, rng: np.random.Generator, sigma: float) -> Picture:
    h, w = picture.shape[:2]
    noise = rng.standard_normal((h, w, 1), dtype=np.float32) * sigma
    return np.asarray(np.clip(picture + noise, 0, 255), np.uint8)


def _colours(palette: str) -> list[tuple[int, int, int]]:
    return [(c >> 16, c >> 8 & 255, c & 255) for c in _PALETTES[palette]]


def _noise(rng: np.random.Generator, width: int, height: int, cell: float, octaves: int) -> NDArray[np.float32]:
    """Smooth noise in 0..1, `[height, width]`: octaves of random grids, the coarsest with cells of `cell` px."""
    import cv2

    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = cell / 2**octave
        grid = rng.random((int(height / size) + 3, int(width / size) + 3), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low), np.float32)


def _ramp(values: NDArray[np.float32], colours: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
    """Colours of values in 0..1 along the palette, `[height, width, 3]`."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, stops, [c[i] for c in colours]) for i in range(3)], axis=-1).astype(np.float32)


def _shade(rng: np.random.Generator, colours: Sequence[tuple[int, int, int]]) -> tuple[float, ...]:
    """A palette colour, lighter or darker by up to a quarter."""
    factor = rng.uniform(0.75, 1.25)
    return tuple(min(255.0, c * factor) for c in colours[int(rng.integers(len(colours)))])


def draw_leaves(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """Overlapping leaves of all sizes: a dead-leaves picture, whose edges and scales are those of photographs."""
    import cv2

    out = np.full((height, width, 3), colours[-1], np.uint8)
    count = width * height // 700
    for size in np.sort(8 + 90 * rng.random(count) ** 4)[::-1]:
        x, y, angle = int(rng.uniform(0, width)), int(rng.uniform(0, height)), rng.uniform(0, 180)
        axes = (int(size), int(size * rng.uniform(0.3, 0.9)))
        colour = _shade(rng, colours)
        cv2.ellipse(out, (x + 2, y + 3), axes, angle, 0, 360, tuple(0.45 * c for c in colour), -1, cv2.LINE_AA)
        cv2.ellipse(out, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
        dx, dy = axes[0] * np.cos(np.radians(angle)), axes[0] * np.sin(np.radians(angle))
        cv2.line(out, (int(x - dx), int(y - dy)), (int(x + dx), int(y + dy)), tuple(0.6 * c for c in colour), 1, cv2.LINE_AA)
    return out


def draw_glass(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """A stained-glass window: the cells of random points, glowing in the middle, with dark lead between them."""
    import cv2

    seeds = np.full((height, width), 255, np.uint8)
    count = width * height // 3600
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    table = np.array([_shade(rng, colours) for _ in range(count + 2)], np.float32)
    glow = np.clip(1.25 - distance / 70, 0.35, 1.25)[..., None]
    lead = cv2.dilate(np.abs(cv2.Laplacian(label.astype(np.float32), cv2.CV_32F)), np.ones((4, 4), np.uint8)) > 0
    pane = table[label] * glow * (0.8 + 0.4 * _noise(rng, width, height, 40, 3)[..., None])
    return np.asarray(np.clip(np.where(lead[..., None], 18, pane), 0, 255), np.uint8)


def draw_ridges(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """Mountain ridges one behind the other under a graded sky, wooded and rocky towards the front."""
    sky = np.linspace(0.55, 1, height, dtype=np.float32)[:, None] + 0.2 * (_noise(rng, width, height, 220, 5) - 0.5)
    out = _ramp(np.clip(sky, 0, 1), colours[2:5])
    rows = np.arange(height)[:, None]
    layers = 6
    for layer in range(layers):
        outline = _noise(rng, width, 4, 60 + 320 / (layer + 1), 6)[1]
        top = height * (0.12 + 0.13 * layer) + height * 0.36 * (outline - 0.5)
        base = np.array(colours[layer % 2], np.float32) * (1.25 - 0.16 * layer)
        texture = 0.55 + 0.9 * _noise(rng, width, height, 26 + 10 * layer, 4)
        out = np.where((rows > top)[..., None], base * texture[..., None], out)
    return np.asarray(np.clip(out, 0, 255), np.uint8)


def draw_skyline(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """A town of towers with lit windows, three rows deep, before a clouded sky."""
    import cv2

    out = np.asarray(_ramp(_noise(rng, width, height, 180, 5), colours[:4]), np.uint8)
    for depth in range(3):
        x = -20
        while x < width:
            w, top = int(rng.uniform(34, 96)), int(height * rng.uniform(0.02 + 0.2 * depth, 0.42 + 0.2 * depth))
            wall = tuple(c * (0.75 - 0.2 * depth) for c in _shade(rng, colours))
            cv2.rectangle(out, (x, top), (x + w, height), wall, -1)
            for wx in range(x + 5, x + w - 6, 11):
                for wy in range(top + 6, height, 15):
                    light = colours[4] if rng.random() < 0.45 else tuple(0.5 * c for c in wall)
                    cv2.rectangle(out, (wx, wy), (wx + 5, wy + 8), light, -1)
            x += w + int(rng.uniform(0, 16))
    return out


def draw_marble(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """Polished stone: bands of the palette folded by noise, with fine veins."""
    folds = _noise(rng, width, height, 260, 6)
    veins = np.abs(_noise(rng, width, height, 90, 5) - 0.5) < 0.012
    bands = np.abs((folds * 7) % 2 - 1).astype(np.float32)
    stone = _ramp(bands, [*colours[:5], colours[0]]) * (0.75 + 0.5 * _noise(rng, width, height, 14, 3)[..., None])
    return np.asarray(np.clip(np.where(veins[..., None], 245, stone), 0, 255), np.uint8)


def draw_bubbles(rng: np.random.Generator, width: int, height: int, colours: Sequence[tuple[int, int, int]]) -> Picture:
    """Heaped balls of all sizes, each lit from the upper left, before a dark ground."""
    import cv2

    out = np.full((height, width, 3), colours[-1], np.uint8)
    for size in np.sort(7 + 60 * rng.random(width * height // 1300) ** 3)[::-1]:
        x, y, colour = rng.uniform(0, width), rng.uniform(0, height), _shade(rng, colours)
        for step in range(4):
            centre = (int(x - size * 0.11 * step), int(y - size * 0.11 * step))
            tone = tuple(min(255.0, c * (0.5 + 0.25 * step) + 12 * step) for c in colour)
            cv2.circle(out, centre, max(1, int(size * (1 - 0.24 * step))), tone, -1, cv2.LINE_AA)
    return out


_DRAWINGS: dict[str, Callable[[np.random.Generator, int, int, Any], Picture]] = {
    "leaves": draw_leaves,
    "glass": draw_glass,
    "ridges": draw_ridges,
    "skyline": draw_skyline,
    "marble": draw_marble,
    "bubbles": draw_bubbles,
}
