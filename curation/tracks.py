"""Tracks: what the one decode leaves of a medium, numbers and small pictures keyed by presentation time.

Observers fill tracks while the frames go by; measures are functions of tracks. So a new threshold, a new clip length or a new measure's
setting is a query on what is stored and never another decode.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

_NO_PICTURES = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Numbers of a medium at rising presentation times; the times are the observer's own, every frame or fewer.

    `values` [n, fields] is float32 and nan where a number was not measured (null once stored). `pictures` is uint8 [n, h, w], or
    [0, 0, 0] for a track without any.
    """

    name: str
    fields: tuple[str, ...]
    pts_us: np.ndarray  # int64 [n]
    values: np.ndarray
    pictures: np.ndarray = field(default_factory=lambda: _NO_PICTURES)

    def __len__(self) -> int:
        return len(self.pts_us)

    def __getitem__(self, name: str) -> np.ndarray:
        """One field's values, float32 [n]. Raises KeyError naming the track's fields."""
        if name not in self.fields:
            raise KeyError(f"track {self.name}: expected one of {', '.join(self.fields)}, found {name!r}")
        return np.asarray(self.values[:, self.fields.index(name)])

    def between(self, start_us: int, end_us: int) -> "Track":
        """The part at times in [start_us, end_us); views, no copies."""
        first, end = bisect_left(self.pts_us, start_us), bisect_left(self.pts_us, end_us)
        pictures = self.pictures[first:end] if len(self.pictures) else self.pictures
        return Track(name=self.name, fields=self.fields, pts_us=self.pts_us[first:end], values=self.values[first:end], pictures=pictures)


Tracks = Mapping[str, Track]
"""The tracks of one asset, by name."""


class Recorder:
    """Collects a track row by row in little memory: 4 bytes a number, 8 a time."""

    def __init__(self, name: str, fields: tuple[str, ...]) -> None:
        self.name, self.fields = name, fields
        self.pts_us = array("q")
        self._values = array("f")
        self._pictures: list[np.ndarray] = []

    def add(self, pts_us: int, *values: float, picture: np.ndarray | None = None) -> None:
        """One more row; the picture, uint8 [h, w], is kept as it is, so hand in a copy. Either every row has one or none has."""
        if len(values) != len(self.fields):
            raise ValueError(f"track {self.name}: expected {len(self.fields)} values, found {len(values)}")
        self.pts_us.append(pts_us)
        self._values.extend(values)
        if picture is not None:
            self._pictures.append(picture)

    def track(self) -> Track:
        """What was collected."""
        return Track(
            name=self.name,
            fields=self.fields,
            pts_us=np.array(self.pts_us, np.int64),
            values=np.array(self._values, np.float32).reshape(len(self.pts_us), len(self.fields)),
            pictures=np.stack(self._pictures) if self._pictures else _NO_PICTURES,
        )


def by_name(tracks: Iterable[Track]) -> dict[str, Track]:
    """The tracks by name."""
    return {t.name: t for t in tracks}


SCHEMA = pa.schema(
    [
        pa.field("asset_id", pa.string(), False),
        pa.field("track", pa.string(), False),
        pa.field("fields", pa.list_(pa.string()), False),
        pa.field("pts_us", pa.list_(pa.int64()), False),
        pa.field("values", pa.list_(pa.float32()), False),
        pa.field("picture_height", pa.int32(), False),
        pa.field("picture_width", pa.int32(), False),
        pa.field("pictures", pa.binary(), False),
    ]
)
"""One row a track of an asset: values row by row, pictures one after the other. A new track or field changes no schema."""


def to_table(asset_id: str, tracks: Iterable[Track]) -> pa.Table:
    """The tracks of an asset as rows of SCHEMA; nan becomes null."""
    rows: list[list[object]] = []
    for t in tracks:
        values = pa.array(t.values.reshape(-1), pa.float32(), from_pandas=True)
        height, width = t.pictures.shape[1:]
        rows.append([asset_id, t.name, list(t.fields), t.pts_us, values, height, width, t.pictures.tobytes()])
    columns = [pa.array([r[i] for r in rows], f.type) if f.name not in ("pts_us", "values") else _lists([r[i] for r in rows], f.type)
               for i, f in enumerate(SCHEMA)]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def from_table(table: pa.Table) -> dict[str, dict[str, Track]]:
    """The tracks in rows of SCHEMA, by asset and name."""
    found: dict[str, dict[str, Track]] = {}
    for i in range(table.num_rows):
        cell = {name: table.column(name)[i] for name in SCHEMA.names}
        fields = tuple(cell["fields"].as_py())
        # null comes back as nan
        pts_us = cell["pts_us"].values.to_numpy(zero_copy_only=False).astype(np.int64)
        values = cell["values"].values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(pts_us), len(fields))
        shape = (-1, cell["picture_height"].as_py(), cell["picture_width"].as_py())
        raw = cell["pictures"].as_py()
        track = Track(
            name=cell["track"].as_py(),
            fields=fields,
            pts_us=pts_us,
            values=values,
            pictures=np.frombuffer(raw, np.uint8).reshape(shape) if raw else _NO_PICTURES,
        )
        found.setdefault(cell["asset_id"].as_py(), {})[track.name] = track
    return found


def _lists(values: list[object], type_: pa.DataType) -> pa.ListArray:
    """Lists from arrays without a Python object a number."""
    parts = [v if isinstance(v, pa.Array) else pa.array(v, type_.value_type) for v in values]
    offsets = np.cumsum([0, *(len(p) for p in parts)])
    flat = pa.concat_arrays(parts) if parts else pa.array([], type_.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
