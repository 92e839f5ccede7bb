"""Still pictures, read within limits: by Pillow where it can, HEIC through FFmpeg. `media` says what else is true of hostile input."""

import warnings
from typing import Any, BinaryIO

import numpy as np

from curation.containers import head_of, picture_kind
from curation.decode import first_frame
from curation.media import (
    MediaConfig,
    MediaError,
    Purpose,
    need_pixels,
    note_open,
    open_container,
    open_file,
    prepare,
)  # fmt: skip
from curation.orientation import orientation

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF")
"""Pillow decoders that are allowed; HEIC goes through PyAV."""


def load_picture(path: str, cfg: MediaConfig, long_side_px: int | None = None, purpose: Purpose = "decode") -> np.ndarray:
    """The picture as shown (EXIF orientation applied), RGB uint8 [h, w, 3], shrunk to the long side if given. Raises MediaError."""
    note_open(path, purpose)
    image = open_still(path, cfg, long_side_px)
    if long_side_px and max(image.size) > long_side_px:
        image.thumbnail((long_side_px, long_side_px))
    return np.asarray(image)


def open_still(path: str, cfg: MediaConfig, long_side_px: int | None = None) -> Any:
    """The whole picture, decoded, as an upright RGB Pillow image; `info["orientation"]` keeps the EXIF tag. Raises MediaError."""
    with open_file(path) as file:
        if picture_kind(head_of(file)) != "HEIC":
            return _pillow(path, file, cfg, long_side_px)
    return _heic(path, cfg)


def _pillow(path: str, file: BinaryIO, cfg: MediaConfig, long_side_px: int | None) -> Any:
    """Of a JPEG a smaller copy is decoded where a long side is given. Only the first picture of several is read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are checked against our own limit on the next lines
            with Image.open(file, formats=PICTURE_FORMATS) as image:
                need_pixels(path, image.width, image.height, cfg.max_image_pixels)
                if image.format == "JPEG":
                    _need_scans(path, file, cfg)
                turned = image.getexif().get(0x0112, 1)
                if long_side_px:
                    image.draft("RGB", (long_side_px, long_side_px))
                upright = _rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except UnidentifiedImageError as e:
        raise MediaError("decode_error", f"{path}: starts as a picture but its header does not parse") from e
    except Image.DecompressionBombError as e:
        raise MediaError("limit_pixels", f"{path}: {e}") from e
    except MemoryError as e:
        raise MediaError("memory", f"{path}: not enough memory to decode") from e
    except Exception as e:  # Pillow's readers raise whatever the bytes lead them to (struct.error, KeyError, ZeroDivisionError …)
        code = "truncated" if "truncated" in str(e).lower() else "decode_error"
        raise MediaError(code, f"{path}: the picture does not decode ({type(e).__name__}: {e})") from e
    upright.info["orientation"] = turned
    return upright


def _rgb(image: Any) -> Any:
    """The Pillow picture in RGB of 8 bits as a viewer shows it: 16-bit grey scaled down, what is transparent on white."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow cuts off what is above 255, and of all it reads here only 16-bit grey comes so.
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _need_scans(path: str, file: BinaryIO, cfg: MediaConfig) -> None:
    """Raises MediaError for a progressive JPEG that asks for a pass over all its pixels some thousand times."""
    at, n_scans = file.tell(), 0
    file.seek(0)
    while block := file.read(1 << 20):
        n_scans += block.count(b"\xff\xda")
    file.seek(at)
    if n_scans > cfg.max_jpeg_scans:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_jpeg_scans} scans, found {n_scans}")


def _heic(path: str, cfg: MediaConfig) -> Any:
    """A HEIC picture of one tile; of a grid FFmpeg's Python binding shows single tiles only, so that is refused."""
    from PIL import Image

    with open_container(path, cfg, cfg.max_image_pixels) as container:
        streams = container.streams.video
        if not streams:
            raise MediaError("no_streams", f"{path}: expected a picture, found no stream")
        largest = max(s.width * s.height for s in streams)
        same = [s for s in streams if s.width * s.height == largest]
        if len(same) > 1:
            raise MediaError("unsupported", f"{path}: expected a HEIC picture of one tile, found a grid of {len(same)}")
        need_pixels(path, same[0].width, same[0].height, cfg.max_image_pixels)
        prepare(path, same[0], cfg, max_pixels=cfg.max_image_pixels)
        frame = first_frame(path, container, same[0], cfg)
        need_pixels(path, frame.width, frame.height, cfg.max_image_pixels)
        turn = orientation(frame)
        image = Image.fromarray(np.ascontiguousarray(turn.apply(frame.to_ndarray(format="rgb24"))))
        image.info["orientation"] = {0: 1, 90: 6, 180: 3, 270: 8}[turn.clockwise_degrees]
        return image
