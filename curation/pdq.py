"""PDQ hashes: 256 bit that survive re-encoding, scaling and tone; two pictures within 31 bit are copies (Meta, PDQ reference, 2019).

PDQ reduces the luma to 64 x 64 cells, takes the 16 x 16 lowest frequencies but the constant ones, and sets a bit where one is above
their median. The reference reduces by a blur and then picks pixels, so the same picture at 256 px and at 512 px is 20 bit apart on
average (ten photographs of scikit-image), two thirds of the allowance. Here each cell is the mean of its area: 0.2 bit apart. And as
it is made from any part of a small luma plane for 0.03 ms instead of 1 to 5 ms, a picture can be hashed in many ways: cropped, without
its bars, and, from the same frequencies, mirrored and turned.

These hashes are compared with one another only. `reference_hash` is the canonical one, for lists of hashes from elsewhere.
"""

from collections.abc import Sequence

import cv2
import numpy as np

CELLS = 64
BITS = 256
PDQ_BYTES = 32
"""Length of a hash, its bits in the canonical order (its hexadecimal form is the one that hash lists use)."""

_LOW = 16
_DCT = np.array(
    [[np.sqrt(2 / CELLS) * np.cos(np.pi / (2 * CELLS) * (i + 1) * (2 * k + 1)) for k in range(CELLS)] for i in range(_LOW)], np.float32
)
_ODD = np.where(np.arange(_LOW) % 2, 1, -1).astype(np.float32)
"""The sign of each frequency, 1 to 16 half periods, in a mirrored picture."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as the reference

Part = tuple[float, float, float, float]
"""A part of a picture: shares of its height cut off at the top and the bottom, of its width at the left and the right."""


def cells(luma: np.ndarray, part: Part = (0.0, 0.0, 0.0, 0.0)) -> np.ndarray:
    """Means of 64 x 64 cells of the part of a uint8 luma plane, uint8: aspect is given up."""
    height, width = luma.shape
    top, bottom, left, right = part
    first, left_px = round(height * top), round(width * left)
    inside = luma[first : max(first + 1, height - round(height * bottom)), left_px : max(left_px + 1, width - round(width * right))]
    return cv2.resize(inside, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def frequencies(grids: np.ndarray) -> np.ndarray:
    """The 16 x 16 lowest frequencies of cells [n, 64, 64], float32 [n, 16, 16]."""
    return np.asarray(_DCT @ grids.astype(np.float32) @ _DCT.T, np.float32)


def turned(low: np.ndarray) -> np.ndarray:
    """The frequencies [16, 16] of the picture's seven other ways to lie: mirrored, upside down, turned and both, [7, 16, 16]."""
    across, down = low * _ODD[None, :], low * _ODD[:, None]
    around = across * _ODD[:, None]
    return np.stack([across, down, around, low.T, across.T, down.T, around.T])


def hashes(low: np.ndarray) -> list[bytes]:
    """One hash each for frequencies [n, 16, 16]."""
    flat = low.reshape(len(low), BITS)
    # The upper half: as above the median, in a tenth of the time.
    middle = BITS // 2 - 1
    bits = flat > np.partition(flat, middle, axis=1)[:, middle, None]
    return [row.tobytes() for row in np.packbits(bits[:, ::-1], axis=1)]


def qualities(grids: np.ndarray, levels: float = 255.0) -> np.ndarray:
    """How much there is to see in cells, uint8 [n, 64, 64], from black to white in `levels`: 0 flat to 100, PDQ's sum of the steps between
    neighbours, each rounded down to a hundredth of white."""
    hundredths = np.minimum(255, np.arange(256) * 100 / levels).astype(np.uint8)
    steps = []
    for grid in grids:
        down, across = cv2.absdiff(grid[1:], grid[:-1]), cv2.absdiff(grid[:, 1:], grid[:, :-1])
        steps.append(int(cv2.sumElems(cv2.LUT(down, hundredths))[0] + cv2.sumElems(cv2.LUT(across, hundredths))[0]))
    return np.minimum(100, np.array(steps, np.int64) // 90)


def hash_plane(luma: np.ndarray, levels: float = 255.0) -> tuple[bytes, int]:
    """Hash and quality of a whole luma plane."""
    grid = cells(luma)[None]
    return hashes(frequencies(grid))[0], int(qualities(grid, levels)[0])


def reference_hash(rgb: np.ndarray) -> tuple[bytes, int]:
    """The canonical PDQ hash of an RGB picture of at most some 512 px, and its quality: what hash lists hold.

    The reference's own arithmetic, by OpenCV's box filters in a fifth of the time: within 6 bit of it on ten photographs at four sizes.
    """
    luma = rgb.astype(np.float32) @ _LUMA
    height, width = luma.shape
    box = ((width + 127) // 128, (height + 127) // 128)
    # The reference's window of n pixels reaches n // 2 of them ahead; OpenCV's anchor counts from behind.
    anchor = tuple(n - 1 - n // 2 for n in box)
    smooth = cv2.blur(cv2.blur(luma, box, anchor=anchor), box, anchor=anchor)
    rows, columns = (((np.arange(CELLS) + 0.5) * side / CELLS).astype(np.int64) for side in (height, width))
    grid = smooth[np.ix_(rows, columns)]
    steps = sum(int(np.abs(np.diff(grid, axis=axis) * np.float32(100 / 255)).astype(np.int32).sum()) for axis in (0, 1))
    return hashes(frequencies(grid[None]))[0], min(100, steps // 90)


def hamming(a: bytes, b: bytes) -> int:
    """The number of bits in which two hashes differ, 0..256."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def to_words(values: Sequence[bytes]) -> np.ndarray:
    """Hashes as uint64 words [n, 4]."""
    return np.frombuffer(b"".join(values), np.uint64).reshape(-1, PDQ_BYTES // 8)
