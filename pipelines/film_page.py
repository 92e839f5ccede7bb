"""A page that shows generated films, what was asked, and numbers beside them; one file, nothing is fetched from elsewhere."""

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from manifests.files import write_atomic

FRAMES = 6
"""Pictures that a film is shown by."""
_STRIP_PX = 96
_KICKER = b'<p class="kicker">dailies</p>'
"""What stands on every page of films, and on no other."""
_SOUND_PX = (600, 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A film on the page: its file beside the page, pictures of it, and what was measured."""

    name: str
    file: str = ""
    strip: str = ""
    sound: str = ""
    facts: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The films of one prompt, side by side."""

    prompt: str
    films: tuple[Shown, ...]
    read_as: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measure of every column; `best` is the place of the best value, or None. `details` stand below the values, where there are any."""

    name: str
    values: tuple[float | None, ...]
    details: tuple[str, ...] = ()
    note: str = ""
    best: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Measures side by side."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def write_page(path: Path, title: str, lead: str, groups: Sequence[Group], table: Table | None = None) -> Path:
    """The page is at `path`; whatever prompts and names hold is shown as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("films.html.j2").render(title=title, lead=lead, groups=groups, table=table)
    write_atomic(path, page.encode())
    return path


def is_page(path: Path) -> bool:
    """Whether the file is a page that `write_page` wrote."""
    return _KICKER in path.read_bytes()


def strip(frames_THW3: NDArray[np.uint8]) -> str:
    """The frames side by side, as a data URI."""
    from PIL import Image

    sheet = Image.fromarray(np.concatenate(list(frames_THW3), axis=1))
    if sheet.height > _STRIP_PX:
        sheet = sheet.resize((round(sheet.width * _STRIP_PX / sheet.height), _STRIP_PX))
    return _uri(sheet)


def loudness_picture(peaks_N: NDArray[np.float32]) -> str:
    """The peaks of a sound over time, as a data URI."""
    from PIL import Image

    width, height = _SOUND_PX
    edges = np.linspace(0, len(peaks_N), width + 1).astype(int)
    peaks = np.array([peaks_N[a : max(b, a + 1)].max(initial=0.0) for a, b in itertools.pairwise(edges)])
    half = np.abs(np.arange(height) - (height - 1) / 2)[:, None]
    sheet = np.where(half <= np.maximum(peaks * height / 2, 0.5), 90, 235).astype(np.uint8)
    return _uri(Image.fromarray(sheet))


def _uri(picture: Any) -> str:
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
