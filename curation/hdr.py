"""Pictures of high dynamic range as a screen of standard range shows them.

PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) code light that no 8-bit picture holds: read as if they were BT.709 they are grey and flat. `shown`
brings them to BT.709's primaries and a screen's power of 2.4, reference white (203 nits, ITU-R BT.2408) being the brightest. Light beyond it
keeps its hue and fades to white. FFmpeg's scaler (8 and later) comes within a level or two for what BT.709 holds and maps the rest alike, but
makes a table of 4 to 7 CPU seconds first, for every scaler: a key frame or a clip. Here the formula is 10 ms a small picture, and a table of it
for FFmpeg's filter (`write_table`) 0.1 s.
"""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PQ, HLG = 16, 18
"""Transfers of high dynamic range, by their numbers in H.273."""

TABLE_FILTERS = (
    "scale=out_range=pc,format=gbrp16le,lut3d=file={table}:interp=tetrahedral,scale=out_color_matrix=bt709:out_range=tv"
    ":flags=accurate_rnd+full_chroma_int+bitexact,setparams=color_trc=bt709:color_primaries=bt709"
)
"""FFmpeg's filters for it, with the name of a table's file."""

_TABLE_SIDE = 33  # tetrahedral steps between are below a level, as the codes are even to the eye
_WHITE_NITS, _PQ_NITS, _HLG_NITS = 203, 10_000, 1000
_SCREEN_POWER, _HLG_SYSTEM_POWER = 2.4, 1.2
_STEPS = 4096  # of the tables: 12 bits
_BT709, _P3 = 1, 12
_FROM_BT2020 = np.array([[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32)
_FROM_P3 = np.array([[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32)
"""Linear light of other primaries (D65) to BT.709's (SMPTE RP 177)."""
_LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
_LUMINANCE_BT709 = np.array([[0.2126, 0.7152, 0.0722]], np.float32)


def is_hdr(source: Any) -> bool:
    """Whether the frame, or the codec context, says that its picture is of high dynamic range."""
    return int(source.color_trc or 0) in (PQ, HLG)


def shown(coded: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """uint8 [h, w, 3] in BT.709 of coded uint16 [h, w, 3], full range, channels in RGB order both; `transfer` is PQ or HLG, primaries as in H.273.

    Primaries that are not stated are taken for BT.2020's, as both transfers are defined with them.
    """
    light = _to_light(transfer)[coded >> 4]
    if transfer == HLG:  # BT.2100: the scene's light to a screen's, by its luminance
        light *= cv2.pow(cv2.transform(light, _LUMINANCE), _HLG_SYSTEM_POWER - 1)[..., None] * (_HLG_NITS / _WHITE_NITS)
    if primaries != _BT709:
        light = cv2.transform(light, _FROM_P3 if primaries == _P3 else _FROM_BT2020)
    light = np.maximum(light, 0)
    luminance = cv2.transform(light, _LUMINANCE_BT709)[..., None]
    brightest = cv2.max(cv2.max(light[..., 0], light[..., 1]), light[..., 2])  # an eighth of what a maximum over an axis of three takes
    light /= np.maximum(brightest, 1)[..., None]
    # Twice as bright as white is half faded to it: nearest to FFmpeg's scaler of several ways that were tried (1.3 to 3.3 levels on average).
    light += (1 - light) * np.maximum(1 - 1 / np.maximum(luminance, 1), 0)
    root = cv2.sqrt(np.minimum(light, 1))  # even steps of it are fine enough in the dark, and cheaper than a power of each
    return np.asarray(_to_levels()[np.rint(root * (_STEPS - 1)).astype(np.uint16)])


def write_table(path: Path, transfer: int, primaries: int) -> None:
    """The file is `shown` as a table for FFmpeg's filter lut3d (Adobe's Cube format)."""
    codes = np.rint(np.linspace(0, 65535, _TABLE_SIDE)).astype(np.uint16)
    blue, green, red = np.meshgrid(codes, codes, codes, indexing="ij")  # red runs fastest
    levels = shown(np.stack([red, green, blue], axis=-1).reshape(1, -1, 3), transfer, primaries)[0] / 255
    lines = [" ".join(f"{v:.5f}" for v in row) for row in levels.tolist()]
    path.write_text(f"LUT_3D_SIZE {_TABLE_SIDE}\n" + "\n".join(lines) + "\n")


def shown_luma(luma: np.ndarray, transfer: int) -> np.ndarray:
    """The luma, uint8 in limited range, as `shown` brings greys of it to a screen; as it is where the transfer is of standard range."""
    return cv2.LUT(luma, _luma_table(transfer)) if transfer in (PQ, HLG) else luma


@cache
def _luma_table(transfer: int) -> np.ndarray:
    """Limited-range levels by limited-range codes, uint8 [256]."""
    code = np.clip((np.arange(256) - 16) / 219, 0, 1)
    grey = np.repeat(np.rint(code * 65535).astype(np.uint16)[None, :, None], 3, axis=2)
    return np.rint(16 + shown(grey, transfer, _BT709)[0, :, 0] * (219 / 255)).astype(np.uint8)


@cache
def _to_light(transfer: int) -> np.ndarray:
    """Light by code, float32 [_STEPS]: of PQ in units of reference white, of HLG the scene's, 0 to 1 (BT.2100, tables 4 and 5)."""
    code = np.linspace(0, 1, _STEPS)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    return ((np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * (_PQ_NITS / _WHITE_NITS)).astype(np.float32)


@cache
def _to_levels() -> np.ndarray:
    """Levels by the square root of a screen's light, uint8 [_STEPS]."""
    return np.rint(255 * np.linspace(0, 1, _STEPS) ** (2 / _SCREEN_POWER)).astype(np.uint8)
