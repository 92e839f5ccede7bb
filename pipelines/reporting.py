"""The report of a dataset, with key frames from its work area made small enough to be embedded."""

import hashlib
import io
import json
from functools import cache
from pathlib import Path

from manifests import ids, report
from manifests.files import write_atomic
from manifests.query import connect, hold, rows
from manifests.records import Clip
from manifests.summary import Images
from manifests.tables import ManifestStore
from pipelines import provenance
from pipelines.stage import Place

STAMP = "report.stamp"
"""File of the work area that says what the report in the dataset's folder was made of: without the work area it has no pictures either."""

_THUMBNAIL_PX = 200
_QUALITY = 72
"""About 8 kB a picture: a report with a hundred of them stays below a megabyte."""


def write_report(dataset: Path) -> Path:
    """`report.html` and `report.json` of the newest version stand in the dataset's folder; returns the page's path."""
    made_of = None
    while made_of != (now := _made_of(dataset)):
        # What was committed while it was made may not be in it: after a takedown what was removed must not stand here again.
        made_of = now
        page = report.write_report(ManifestStore(dataset), dataset, images(dataset), title=dataset.absolute().name)
    write_atomic(Place(dataset).work / STAMP, _stamp(dataset, made_of).encode())
    return page


def update_report(dataset: Path) -> Path:
    """As `write_report`, but a report that would be made of the same version by the same code, and that nobody touched, stays as it is."""
    stamp = Place(dataset).work / STAMP
    if stamp.is_file() and stamp.read_text() == _stamp(dataset, _made_of(dataset)):
        return dataset / "report.html"
    return write_report(dataset)


def _made_of(dataset: Path) -> str:
    """Digest of all that a report is made of: tables, code and templates, and the folder's name, which is its title."""
    newest = ManifestStore(dataset).versions()[-1:]
    templates = [_hash(p) for p in sorted((Path(report.__file__).parent / "templates").iterdir()) if p.is_file()]
    return ids.digest("report/v1", json.dumps(newest, sort_keys=True), provenance.code_version(), dataset.absolute().name, *templates)


def _stamp(dataset: Path, made_of: str) -> str:
    """Digest of what the report was made of and of what it is."""
    return ids.digest("report stamp/v1", made_of, *(_hash(dataset / name) for name in ("report.html", "report.json")))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def images(dataset: Path, version: int | None = None) -> Images:
    """A small picture of any clip of a version (the newest if none is given), from its key frames."""
    from curation.keyframes import KeyFrameError, decode_jpeg, of_clip, read_keyframes, spread

    con = connect(ManifestStore(dataset), version)
    hold(con, ("clips",))

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
