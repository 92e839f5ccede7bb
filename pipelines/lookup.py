"""`dailies lookup`: is this file, or a part of it, in the dataset? By its bytes, by spans of its pictures, by edited copies. Reading only.

The file is decoded in the sandbox. What it is compared with was left by the scan and by the descriptors of the last curation, so no
medium of the dataset is opened. Sound is known by its exact bytes alone.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from curation.blocklist import Blocklist
from curation.copy_search import FileCopies, FileSeries, Shown, series_of
from curation.duplicates import DuplicatesConfig
from curation.embeddings import VECTORS, DescribeClips, DescriptorConfig
from curation.hash_observer import TRACK
from curation.outside import Watched, watch_file
from curation.subclips import SubclipsConfig
from manifests.events import Block
from manifests.query import rows
from manifests.records import Clip
from manifests.schema import from_table
from manifests.tables import ManifestStore
from manifests.whatif import Limits, open_files
from pipelines.measures import MEASURES, MeasuresConfig, read_tracks, run_measure
from pipelines.plan import DESCRIBE
from pipelines.stage import Place

How = Literal["bytes", "span", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPart:
    """A clip that shows some of the file: pictures at [start_us, end_us] of the clip's asset are about those at [file_start_us, file_end_us] of
    the file, both ends inclusive."""

    clip_id: str
    decision: str
    set_name: str | None
    file_start_us: int
    file_end_us: int
    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """An asset of the dataset that shows the file or a part of it, and how that was found.

    `bytes`: the very file. `span`: its pictures in order of time, `copy`: its key frames or an edited form of them; times and distance as
    in `copy_search.Shown`. `clips` is empty where no clip was cut from that part.
    """

    how: How
    asset_id: str
    uri: str
    state: str
    shown: Shown
    clips: tuple[ClipPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is known of a file. `found` when some live asset shows it. `compared` says whether its pictures could be compared, or why not."""

    file: str
    sha256: str
    found: bool
    blocked: bool
    version: int
    compared: str
    matches: tuple[Match, ...]


def look_up(dataset: Path, file: Path) -> Answer:
    """Everything in the newest version that is the file, or shows a part of it. OSError when the file cannot be read."""
    place, store = Place(dataset.absolute()), ManifestStore(dataset)
    version, watched = store.version(), watch_file(file, every_picture=True)
    blocks: list[Block] = from_table(Block, store.read("blocklist", version))
    con = open_files(store, version, ("assets", "clips"), Limits())
    try:
        clips = _Clips(con)
        matches = list(_by_bytes(clips, watched))
        known = {m.asset_id for m in matches}
        matches += [m for m in _by_spans(place, clips, watched) if m.asset_id not in known]
        seen = {c.clip_id for m in matches for c in m.clips}
        matches += [m for m in _by_copies(place, clips, watched) if m.asset_id not in known and m.clips[0].clip_id not in seen]
    finally:
        con.close()
    return Answer(
        file=str(file),
        sha256=watched.asset.asset_sha256.hex(),
        found=any(m.state == "live" for m in matches),
        blocked=Blocklist.of(blocks).blocks(watched.asset),
        version=version,
        compared=_compared(watched),
        matches=tuple(matches),
    )


class _Clips:
    """Assets and clips of a version, asked by id."""

    def __init__(self, con: Any) -> None:
        self._con = con

    def assets(self, condition: str, *values: object) -> list[dict[str, Any]]:
        names = "asset_id, asset_no, uri, state, start_us, duration_us, scan_part"
        return rows(self._con, f"SELECT {names} FROM assets WHERE {condition} ORDER BY asset_no", *values)  # noqa: S608 (our own conditions)

    def of_asset(self, asset_no: int) -> list[dict[str, Any]]:
        """Its clips in order of time, without those that were taken down."""
        return self._where("asset_no = ?", asset_no)

    def with_ids(self, clip_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {c["clip_id"]: c for c in self._where("list_contains(?::VARCHAR[], clip_id)", list(clip_ids))}

    def _where(self, condition: str, value: object) -> list[dict[str, Any]]:
        names = "clip_id, asset_id, start_us, end_us, decision, set_name"
        return rows(
            self._con,
            f"SELECT {names} FROM clips WHERE {condition} AND decision <> 'removed' ORDER BY start_us, clip_id",  # noqa: S608
            value,
        )


def _by_bytes(clips: _Clips, watched: Watched) -> Iterator[Match]:
    for asset in clips.assets("asset_id = ? AND asset_sha256 = ?", watched.asset.asset_id, watched.asset.asset_sha256):
        start_us = asset["start_us"] or 0
        end_us = start_us + (asset["duration_us"] or 0)
        whole = Shown(start_us=start_us, end_us=end_us, there_start_us=start_us, there_end_us=end_us, distance=0, matched=1.0)
        yield _match("bytes", asset, whole, clips.of_asset(asset["asset_no"]))


def _by_spans(place: Place, clips: _Clips, watched: Watched) -> Iterator[Match]:
    own = series_of(watched.every)
    if not len(own.pts_us):
        return
    looked_for = FileSeries(own, SubclipsConfig())
    parts: dict[str, list[dict[str, Any]]] = {}
    for asset in clips.assets("state = 'live' AND scan_part IS NOT NULL"):
        parts.setdefault(asset["scan_part"], []).append(asset)
    for part, assets in sorted(parts.items()):
        if not (place.dataset / f"{part}.tracks.parquet").exists():
            continue  # the work area was purged
        tracks = read_tracks(place, part, (TRACK,))
        for asset in assets:
            for shown in looked_for.spans(series_of(tracks.get(asset["asset_id"], {}).get(TRACK))):
                yield _match("span", asset, shown, clips.of_asset(asset["asset_no"]))


def _by_copies(place: Place, clips: _Clips, watched: Watched) -> Iterator[Match]:
    if not watched.keyframes:
        return
    own = DescribeClips(DescriptorConfig())([(_as_clip(watched), list(watched.keyframes), watched.tracks.get(TRACK))])[0]
    looked_for, found = FileCopies(own, DuplicatesConfig()), dict[str, Shown]()
    names = ["clip_id", *(f.name for f in VECTORS if f.name in ("pdq", "pdq_frame", "pdq_own", "pdq_pts_us"))]
    for part in sorted((place.work / DESCRIBE.name).rglob("*.parquet")):
        found.update(looked_for.near(pq.read_table(part, columns=names, partitioning=None)))
    there = clips.with_ids(sorted(found))
    for clip_id, shown in sorted(found.items(), key=lambda item: (item[1].distance, item[0])):
        if (clip := there.get(clip_id)) is not None:
            (asset,) = clips.assets("asset_id = ?", clip["asset_id"])
            yield _match("copy", asset, shown, [clip])


def _as_clip(watched: Watched) -> Clip:
    """The whole file as one clip, with its borders measured, since what lies inside them is hashed too."""
    asset = watched.asset
    start_us = asset.start_us or 0
    clip = Clip(
        clip_id="",
        asset_id=asset.asset_id,
        kind=asset.kind or "video",
        start_us=start_us,
        end_us=start_us + (asset.duration_us or 0) + 1,
        width=asset.width,
        height=asset.height,
    )
    borders = next(m for m in MEASURES if m.name == "borders")
    return dataclasses.replace(clip, **run_measure(borders, clip, watched.tracks, MeasuresConfig().borders))


def _match(how: How, asset: dict[str, Any], shown: Shown, clips: Iterable[dict[str, Any]]) -> Match:
    parts = (_part(shown, clip) for clip in clips)
    return Match(
        how=how,
        asset_id=asset["asset_id"],
        uri=asset["uri"],
        state=asset["state"],
        shown=shown,
        clips=tuple(p for p in parts if p is not None),
    )


def _part(shown: Shown, clip: dict[str, Any]) -> ClipPart | None:
    """The part of the clip inside the span; a time there lies in the file where it divides the span alike. None where they do not meet."""
    first, last = max(shown.there_start_us, clip["start_us"]), min(shown.there_end_us, max(clip["start_us"], clip["end_us"] - 1))
    if last < first:
        return None
    speed = (shown.end_us - shown.start_us) / max(1, shown.there_end_us - shown.there_start_us)
    file_start_us, file_end_us = (shown.start_us + round((t - shown.there_start_us) * speed) for t in (first, last))
    return ClipPart(
        clip_id=clip["clip_id"],
        decision=clip["decision"],
        set_name=clip["set_name"],
        file_start_us=file_start_us,
        file_end_us=file_end_us,
        start_us=first,
        end_us=last,
    )


def _compared(watched: Watched) -> str:
    if watched.asset.error_code is not None:
        return f"bytes only: {watched.asset.error_code}: {watched.asset.error_detail}"
    return "bytes and pictures" if watched.keyframes else "bytes only: it has no pictures, and sound is known by its bytes alone"
