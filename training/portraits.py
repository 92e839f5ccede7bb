"""The picture of a person whom a film is to show: a photo as people have it, brought to what a stage of personalisation was trained on.

Where curation knew the faces, its references are squares of 1.3 times the face's box, grey outside the ellipse that the box holds; elsewhere
they are squares of the clips. `portrait` repeats `curation.faces.masked_face`, which training may not import; a test holds the two together.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.data.decode import MAX_PIXELS
from training.errors import TrainingError

Box = tuple[int, int, int, int]
"""A face in a photo that stands upright: left, top, width, height in px."""

_MARGIN, _GREY, _LONGEST_PX = 1.3, 128, 512


def open_photo(path: Path) -> NDArray[np.uint8]:
    """The picture (H, W, 3) as it is to be looked at: turned as its EXIF says. TrainingError when it is none, or a huge one."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise TrainingError(f"{path}: expected at most {MAX_PIXELS} pixels, found {picture.width}x{picture.height}")
                return np.array(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TrainingError(f"{path}: expected a photo of at most {MAX_PIXELS} pixels, found more: {error}") from error
    except TrainingError:
        raise
    except Exception as error:  # decoders of pictures and of EXIF raise many types on broken files; each is the same news
        raise TrainingError(f"{path}: expected a picture (JPEG, PNG or WebP), found {str(error)[:200]}") from error


def read_photo(path: Path, side_px: int, face: Box | None = None) -> Tensor:
    """(3, side, side) in [-1, 1] of a photo: the face in the box, masked as references are; without a box the photo's middle square."""
    picture = open_photo(path)
    try:
        shown = picture if face is None else portrait(picture, face)
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error
    return _cover(torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 127.5 - 1, side_px, side_px)[0]


def portrait(picture: NDArray[np.uint8], face: Box) -> NDArray[np.uint8]:
    """A square around the face, grey outside the ellipse that its box holds; ValueError when the box lies outside the picture."""
    import cv2

    tall, wide = picture.shape[:2]
    left, top, across, down = face
    side = round(_MARGIN * max(across, down))
    x, y = round(left + across / 2 - side / 2), round(top + down / 2 - side / 2)
    if min(across, down) < 1 or min(left, top) < 0 or left + across > wide or top + down > tall:
        raise ValueError(f"face: expected x,y,width,height within the {wide}x{tall} pixels of the photo, found {','.join(map(str, face))}")
    square = np.full((side, side, 3), _GREY, np.uint8)
    rows, columns = slice(max(y, 0), min(y + side, tall)), slice(max(x, 0), min(x + side, wide))
    square[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = picture[rows, columns]
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (side // 2, side // 2), (round(across * _MARGIN / 2), round(down * _MARGIN / 2)), 0, 0, 360, 255, -1)
    square[mask == 0] = _GREY
    if side <= _LONGEST_PX:
        return square
    return np.asarray(cv2.resize(square, (_LONGEST_PX, _LONGEST_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _cover(x_T3HW: Tensor, height: int, width: int) -> Tensor:
    """The pictures scaled to cover height x width, and their middle."""
    scale = max(height / x_T3HW.shape[2], width / x_T3HW.shape[3])
    size = (max(height, round(x_T3HW.shape[2] * scale)), max(width, round(x_T3HW.shape[3] * scale)))
    x = F.interpolate(x_T3HW, size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return x[:, :, top : top + height, left : left + width]
