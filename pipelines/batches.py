"""The stages on key frames and sound copies: one entry each. A batch class loads its models once and maps equal-length lists; it opens no medium.

A network whose weights are not given is not wanted: its columns stay null, and the rules on them say `not run`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from curation import actions, aesthetics, embeddings, hash_observer, keyframes, people, sound_tags, soundtrack, speech, text
from curation.adapters import sscd
from curation.keyframes import KeyFrame
from manifests.records import Clip
from manifests.schema import arrow_schema, from_table
from pipelines.measures import read_tracks
from pipelines.stage import Job, Place

ERRORS = ("error_code", "error_detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch class, what it reads, the columns of a clip that it fills, and the vectors it leaves for the table stages."""

    name: str
    load: Callable[[Any], Callable[[Sequence[Any]], Sequence[Any]]]
    """From the whole configuration: the loaded class, [(clip, material)] -> one record a clip, in order."""
    settings: Callable[[Any], Any]
    """The part of the configuration that its results depend on."""
    version: str
    columns: tuple[str, ...]
    vectors: tuple[pa.Field, ...] = ()
    reads: Literal["pictures", "hashes", "sound", "both"] = "pictures"
    """Key frames alone, with the scan's hashes, or with the sound copy; or the sound copy alone."""
    measures: tuple[str, ...] = ()
    """Measures whose columns it reads of a clip: their settings and versions count as its own."""
    wanted: Callable[[Any], bool] = lambda c: True
    weights: Callable[[Any], bool] = lambda c: True
    """Whether the settings give it a heavy network; one of tens of MB stays in the processes of Ray's tasks, and needs none of its own."""


def _aesthetic_rows(config: Any) -> Callable[[Sequence[Any]], Sequence[Any]]:
    stage = aesthetics.ScoreAesthetics(config.open_clip)

    def rows(batch: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {n: getattr(r, n) for n in ("clip_id", "aesthetic", *ERRORS)}
            | {"model": r.embedding.model if r.embedding else None, "vector": r.embedding.vector if r.embedding else None}
            for r in stage(batch)
        ]

    return rows


_FLOATS = pa.list_(pa.float32())

BATCHES = (
    Batch(name="text", load=lambda c: text.ScoreText(c.text), settings=lambda c: c.text, version=text.VERSION, columns=text.COLUMNS, weights=lambda c: c.text.engine == "paddleocr"),
    Batch(
        name="describe", load=lambda c: embeddings.DescribeClips(c.descriptors), settings=lambda c: c.descriptors,
        version=embeddings.VERSION, columns=embeddings.COLUMNS, vectors=embeddings.VECTORS, reads="hashes", measures=("borders",), weights=lambda c: False,
    ),
    Batch(
        name="aesthetics", load=_aesthetic_rows, settings=lambda c: c.open_clip, version=aesthetics.VERSION, columns=("aesthetic",),
        vectors=(pa.field("model", pa.string()), pa.field("vector", _FLOATS)), wanted=lambda c: c.open_clip.weights is not None,
    ),
    Batch(
        name="copies", load=lambda c: sscd.DescribeCopies(c.sscd), settings=lambda c: c.sscd, version=sscd.VERSION, columns=(),
        vectors=(pa.field("model", pa.string()), pa.field("vector", _FLOATS)), wanted=lambda c: c.sscd.weights is not None,
    ),
    Batch(
        name="people", load=lambda c: people.FindPeople(c.people), settings=lambda c: c.people, version=people.VERSION,
        columns=people.COLUMNS, vectors=people.VECTORS, wanted=lambda c: c.people.wanted,
    ),
    Batch(
        name="actions", load=lambda c: actions.FindActions(c.actions), settings=lambda c: dataclasses.replace(c.actions, cache=None), version=actions.VERSION,
        columns=actions.COLUMNS, vectors=actions.VECTORS, wanted=lambda c: c.actions.wanted,
    ),
    Batch(
        name="speech", load=lambda c: speech.DetectSpeech(c.speech), settings=lambda c: c.speech, version=speech.VERSION,
        columns=speech.COLUMNS, reads="sound", weights=lambda c: False,
    ),
    Batch(
        name="sound-tags", load=lambda c: sound_tags.TagSound(c.sound_tags), settings=lambda c: c.sound_tags, version=sound_tags.VERSION,
        columns=sound_tags.COLUMNS, reads="both", wanted=lambda c: c.sound_tags.wanted,
    ),
)  # fmt: skip


def schema_of(batch: Batch) -> pa.Schema:
    """The columns of its outputs: those of the clips table, vectors, and the error."""
    clips = arrow_schema(Clip)
    return pa.schema([clips.field("clip_id"), *(clips.field(c) for c in batch.columns), *batch.vectors, *(clips.field(c) for c in ERRORS)])


def make_batch(batch: Batch, config: Any, place: Place) -> Job:
    """The job of a batch stage; what its class cannot do on a clip is the clip's error, in its row."""
    stage, schema = batch.load(config), schema_of(batch)

    def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
        clips = from_table(Clip, rows)
        found = stage(materials(place, clips, batch.reads))
        if len(found) != len(clips):
            raise ValueError(f"{batch.name}: {len(clips)} clips in, {len(found)} out: a batch stage keeps the length")
        return {"rows": pa.Table.from_pylist([_flat(r) for r in found], schema=schema)}

    return job


def materials(place: Place, clips: Sequence[Clip], reads: str) -> list[tuple[Any, ...]]:
    """(clip, key frames), (clip, key frames, hashes), (clip, sound) or (clip, key frames, sound) of every clip, from what the scan left."""
    columns: list[Sequence[Any]] = [clips]
    if reads != "sound":
        columns.append(pictures_of(place, clips))
    if reads == "hashes":
        columns.append(hashes_of(place, clips))
    if reads in ("sound", "both"):
        columns.append(sounds_of(place, clips))
    return list(zip(*columns, strict=True))


def hashes_of(place: Place, clips: Sequence[Clip]) -> list[Any]:
    """The track of hashes of each clip's asset; None where there is none."""
    parts = {part: read_tracks(place, part, (hash_observer.TRACK,)) for part in {c.scan_part for c in clips}}
    return [parts[c.scan_part].get(c.asset_id, {}).get(hash_observer.TRACK) for c in clips]


def pictures_of(place: Place, clips: Sequence[Clip]) -> list[list[KeyFrame]]:
    """The key frames inside each clip; none where the scan left none."""
    parts = {p: keyframes.read_keyframes(place.dataset / p) for p in sorted({c.keyframe_part for c in clips if c.keyframe_part})}
    of_asset: dict[tuple[str, str], list[KeyFrame]] = {}
    for part, frames in parts.items():
        for frame in frames:
            of_asset.setdefault((part, frame.asset_id), []).append(frame)
    return [keyframes.of_clip(of_asset.get((c.keyframe_part or "", c.asset_id), []), c) for c in clips]


def sounds_of(place: Place, clips: Sequence[Clip]) -> list[Any]:
    """The sound copy under each clip; None where there is none."""
    parts = {c.scan_part: soundtrack.read_soundtrack(place.dataset / f"{c.scan_part}.sound.parquet") for c in clips if c.scan_part}
    return [parts.get(c.scan_part or "") for c in clips]


def _flat(record: Any) -> dict[str, Any]:
    return record if isinstance(record, dict) else {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
