"""The measures on tracks: one line a measure. A measure reads what the one decode left and fills columns of a clip; it opens no medium.

Each is a stage of its own, found again by its own settings and version: a changed setting runs that measure only, on stored tracks.
How to add one: docs/adding-a-measure.md.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pds

from curation import audio, borders, camera, damage, effects, motion, quality, tracks, vectors
from curation.tracks import Track, Tracks
from manifests.records import Clip
from manifests.schema import arrow_schema, from_table
from pipelines.stage import Job, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A function of a clip's tracks, the columns it fills, and the tracks it needs: without them its columns are null, `not run`."""

    name: str
    measure: Callable[[Clip, Tracks, Any], dict[str, Any]]
    config: type
    version: str
    columns: tuple[str, ...]
    needs: tuple[str, ...]
    also: tuple[str, ...] = ()
    """Tracks that it reads where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSettings:
    """A measure that has none."""


MEASURES = (
    Measure(name="damage", measure=lambda clip, found, _: dict(damage.measure_damage(clip, found)), config=NoSettings, version=damage.VERSION, columns=damage.COLUMNS, needs=("damage",), also=("motion",)),
    Measure(name="motion", measure=motion.measure_motion, config=motion.MotionConfig, version=motion.VERSION, columns=motion.COLUMNS, needs=("motion", "motion_samples")),
    Measure(name="vectors", measure=vectors.measure_vectors, config=vectors.VectorsConfig, version=vectors.VERSION, columns=vectors.COLUMNS, needs=("vectors", "motion")),
    Measure(name="camera", measure=camera.measure_camera, config=camera.CameraConfig, version=camera.VERSION, columns=camera.COLUMNS, needs=("camera",)),
    Measure(name="effects", measure=effects.measure_effects, config=effects.EffectsConfig, version=effects.VERSION, columns=effects.COLUMNS, needs=effects.NEEDS),
    Measure(name="borders", measure=borders.measure_clip_borders, config=borders.BordersConfig, version=borders.VERSION, columns=borders.COLUMNS, needs=("borders",)),
    Measure(name="quality", measure=quality.measure_clip_quality, config=quality.QualityConfig, version=quality.VERSION, columns=quality.COLUMNS, needs=("quality",), also=("steps",)),
    Measure(name="sound", measure=audio.measure_sound, config=audio.AudioConfig, version=audio.VERSION, columns=audio.COLUMNS, needs=("sound",)),
)  # fmt: skip

MeasuresConfig: Any = dataclasses.make_dataclass(
    "MeasuresConfig",
    [(m.name, m.config, dataclasses.field(default_factory=m.config)) for m in MEASURES],
    frozen=True,
    slots=True,
    kw_only=True,
    namespace={"__doc__": "The settings of every measure on tracks, by its name."},
)


def run_measure(measure: Measure, clip: Clip, found: Tracks, settings: Any) -> dict[str, Any]:
    """The measure's columns of the clip; null where a track that it needs is not there."""
    if any(name not in found for name in measure.needs):
        return dict.fromkeys(measure.columns)
    if clip.kind == "image":
        clip = dataclasses.replace(clip, end_us=clip.start_us + 1)  # tracks are asked for a span; an instant is none
    values = measure.measure(clip, found, settings)
    if set(values) != set(measure.columns):
        raise ValueError(f"measure {measure.name}: expected the columns {', '.join(measure.columns)}, found {', '.join(values)}")
    return values


def schema_of(measure: Measure) -> pa.Schema:
    """The columns of the measure's outputs, as they are stored in the clips table."""
    clips = arrow_schema(Clip)
    return pa.schema([clips.field("clip_id"), *(clips.field(name) for name in measure.columns)])


def make_measure(measure: Measure, config: Any, place: Place) -> Job:
    """The job of a measure: clips, grouped by the scan they come from, get its columns."""
    settings, schema = getattr(config.measures, measure.name), schema_of(measure)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        values: list[dict[str, Any]] = []
        held: tuple[str | None, dict[str, dict[str, Track]]] = (None, {})
        for clip in from_table(Clip, rows):
            if clip.scan_part != held[0]:
                held = (clip.scan_part, read_tracks(place, clip.scan_part, (*measure.needs, *measure.also)))
            values.append({"clip_id": clip.clip_id} | run_measure(measure, clip, held[1].get(clip.asset_id, {}), settings))
        return {"rows": pa.Table.from_pylist(values, schema=schema)}

    return job


def read_tracks(place: Place, scan_part: str | None, names: tuple[str, ...] | None = None) -> dict[str, dict[str, Track]]:
    """The tracks that a scan left, by asset and name; only those of the given names. Empty where there was no scan."""
    if scan_part is None:
        return {}
    wanted = None if names is None else pds.field("track").isin(names)
    return tracks.from_table(pds.dataset(str(place.dataset / f"{scan_part}.tracks.parquet"), format="parquet").to_table(filter=wanted))
