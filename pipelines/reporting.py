"""The report of a dataset, with key frames from its work area made small enough to be embedded."""

import io
from functools import cache
from pathlib import Path

from manifests import report
from manifests.query import connect, rows
from manifests.records import Clip
from manifests.summary import Images
from manifests.tables import ManifestStore

_THUMBNAIL_PX = 200
_QUALITY = 72
"""About 8 kB a picture: a report with a hundred of them stays below a megabyte."""


def write_report(dataset: Path) -> Path:
    """`report.html` and `report.json` of the newest version stand in the dataset's folder; returns the page's path."""
    return report.write_report(ManifestStore(dataset), dataset, images(dataset), title=dataset.absolute().name)


def images(dataset: Path, version: int | None = None) -> Images:
    """A small picture of any clip of a version (the newest if none is given), from its key frames."""
    from curation.keyframes import KeyFrameError, decode_jpeg, of_clip, read_keyframes, spread

    con = connect(ManifestStore(dataset), version)

    @cache
    def middle(clip_id: str, part: str) -> bytes | None:
        try:
            (row,) = rows(con, "SELECT clip_id, asset_id, kind, start_us, end_us FROM clips WHERE clip_id = ?", clip_id)
            frames = spread(of_clip(read_keyframes(dataset / part), Clip(**row)), 1)
            return _small(decode_jpeg(frames[0].jpeg)) if frames else None
        except (FileNotFoundError, KeyFrameError, ImportError):  # a purged work area, or the core install without Pillow: no picture there
            return None

    return middle


def _small(rgb: object) -> bytes:
    from PIL import Image

    image = Image.fromarray(rgb)  # type: ignore[arg-type]
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
