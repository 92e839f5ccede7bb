"""A takedown under way: what it is about, kept as ids, hashes and numbers, so that a killed run continues from it."""

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.blocklist import Blocklist, block_distances, picture_hashes
from curation.hash_observer import TRACK
from curation.keyframes import read_keyframes
from curation.outside import watch_file
from manifests import ids
from manifests.events import Block
from manifests.purgeable import url_key
from manifests.tables import ManifestStore
from manifests.takedown import Basis, Radius, Selector
from pipelines.measures import read_tracks
from pipelines.plan import DESCRIBE, SPLIT
from pipelines.stage import Place

FOLDER = "takedowns"

NEAR_BITS = 31
"""Distance up to which PDQ's authors call two pictures copies; also the threshold of the rule `blocked_copy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A takedown under way: ids, hashes and numbers, never a text of what is taken down."""

    takedown_no: int
    digest: str
    selectors: tuple[str, ...]
    basis: str
    reason: str
    received_at: str
    asset_ids: tuple[str, ...]
    asset_nos: tuple[int, ...]
    asset_sha256: tuple[str, ...]
    clip_ids: tuple[str, ...]
    clip_nos: tuple[int, ...]
    blocks: tuple[tuple[str, str], ...]
    releases: tuple[str, ...]
    checkpoints: tuple[dict[str, Any], ...]
    near: tuple[tuple[str, int], ...] = ()
    """Clips of other files that show the same, and by how many bits they differ: not trained on either, until rules say what they are."""

    @property
    def path(self) -> str:
        """Where the case is kept, under the dataset."""
        return f"{FOLDER}/{self.takedown_no:06d}.case.json"

    @property
    def receipt(self) -> str:
        """Where its receipt is, under the dataset."""
        return f"{FOLDER}/{self.takedown_no:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asks for."""

    selectors: tuple[Selector, ...]
    basis: Basis
    reason: str
    pictures: tuple[tuple[str, str], ...] = ()
    """(kind, value) of picture hashes of files that were given and are not in the dataset: what shows the same is blocked too."""

    @property
    def digest(self) -> str:
        """The same for the same request."""
        return ids.digest("takedown/v1", sorted(s.stored for s in self.selectors), self.basis, self.reason)


def find_case(dataset: Path, request: Request) -> Case | None:
    """The newest case of the same request."""
    cases = (_read_case(p) for p in sorted((dataset / FOLDER).glob("*.case.json")))
    return next((c for c in reversed(list(cases)) if c.digest == request.digest), None)


def open_case(place: Place, store: ManifestStore, request: Request, radius: Radius) -> Case:
    """The case that is under way or done for this request, unless the request means assets that no case of it holds."""
    case = find_case(place.dataset, request)
    live = [a for a in radius.assets if a.state != "removed"]
    if case is not None and not {a.asset_id for a in live} - set(case.asset_ids):
        return case
    mine = {a.asset_id for a in live}
    clips = all_clips(place, store, mine)
    number = 1 + max((_read_case(p).takedown_no for p in (place.dataset / FOLDER).glob("*.case.json")), default=0)
    return Case(
        takedown_no=number,
        digest=request.digest,
        selectors=tuple(s.stored for s in request.selectors),
        basis=request.basis,
        reason=request.reason,
        received_at=datetime.now(UTC).isoformat(timespec="seconds"),
        asset_ids=tuple(a.asset_id for a in live),
        asset_nos=tuple(a.asset_no for a in live),
        asset_sha256=tuple(a.sha256 for a in live),
        clip_ids=tuple(sorted(clips)),
        clip_nos=tuple(sorted(n for n in clips.values() if n is not None)),
        blocks=tuple(_blocks(place, store, request, radius, mine)),
        releases=tuple(r.name for r in radius.releases),
        checkpoints=tuple(dataclasses.asdict(c) for c in radius.checkpoints),
        near=tuple((n.clip_id, n.distance) for n in near_copies(place, store, radius, request.pictures)),
    )


def pictures_of(file: Path) -> tuple[tuple[str, str], ...]:
    """(kind, value) of the picture hashes of a file outside the dataset, decoded once in the sandbox; none of one that cannot be decoded."""
    watched = watch_file(file)
    return tuple(picture_hashes(watched.tracks.get(TRACK), watched.keyframes))


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopy:
    """A clip of another file that shows the same, and how many bits of 256 its nearest picture differs by."""

    clip_id: str
    asset_id: str
    distance: int


def near_copies(place: Place, store: ManifestStore, radius: Radius, pictures: Iterable[tuple[str, str]] = ()) -> list[NearCopy]:
    """Clips of other files that show what the assets or `pictures` show; a takedown keeps them from training at once, and rules drop them when they are asked again."""
    mine = {a.asset_id for a in radius.assets}
    listed = Blocklist.of(Block(kind=k, value=v) for k, v in (*_of_pictures(place, store, mine), *pictures))
    if not listed.has_pictures:
        return []
    table = store.read("clips", columns=["clip_id", "asset_id", "decision"])
    others = {c: a for c, a, d in zip(*(c.to_pylist() for c in table.columns), strict=True) if a not in mine and d != "removed"}
    found: dict[str, int] = {}
    for part in sorted((place.work / DESCRIBE.name).rglob("*.parquet")):
        distances = block_distances(listed, pq.read_table(part, columns=["clip_id", "pdq", "pdq_reference"], partitioning=None))
        near = distances.filter(pc.less_equal(distances.column("block_distance"), NEAR_BITS))
        for clip_id, distance in zip(*(c.to_pylist() for c in near.columns), strict=True):
            if clip_id in others:
                found[clip_id] = min(distance, found.get(clip_id, distance))
    return [NearCopy(clip_id=c, asset_id=others[c], distance=d) for c, d in sorted(found.items(), key=lambda item: (item[1], item[0]))]


def all_clips(place: Place, store: ManifestStore, assets: Collection[str]) -> dict[str, int | None]:
    """Every clip that was ever cut from the assets, with its number where it has one: of all readable versions and of the work area."""
    found: dict[str, int | None] = {}
    for part in sorted((place.work / SPLIT.name).rglob("*.clips.parquet")):
        table = pq.read_table(part, columns=["asset_id", "clip_id"], partitioning=None)
        found.update({r["clip_id"]: None for r in _of(assets, table).to_pylist()})
    for version in store.readable():
        clips = store.read("clips", version, ["asset_id", "clip_id", "clip_no"])
        found.update({r["clip_id"]: r["clip_no"] for r in _of(assets, clips).to_pylist()})
    return found


def _blocks(place: Place, store: ManifestStore, request: Request, radius: Radius, mine: Collection[str]) -> Iterator[tuple[str, str]]:
    """(kind, value) of what must not enter again: the bytes, the addresses named, and what the pictures look like."""
    for selector in request.selectors:
        if selector.kind == "url":
            yield "url", url_key(selector.value)
        elif selector.kind == "hash":
            yield ("sha256" if len(selector.value.strip()) == 64 else "md5"), selector.value.strip().lower()
    for asset in (a for a in radius.assets if a.asset_id in mine):
        if len(asset.sha256) == 64:  # one that could not be read has no hash
            yield "sha256", asset.sha256
            yield "md5", asset.md5
    yield from request.pictures
    yield from _of_pictures(place, store, mine)


def _of_pictures(place: Place, store: ManifestStore, mine: Collection[str]) -> Iterator[tuple[str, str]]:
    """The picture hashes of the assets, from what their scan left."""
    parts: dict[str, set[str]] = {}
    for row in _of(mine, store.read("assets", columns=["asset_id", "scan_part"])).to_pylist():
        if row["scan_part"]:
            parts.setdefault(row["scan_part"], set()).add(row["asset_id"])
    for part, asset_ids in sorted(parts.items()):
        found = read_tracks(place, part, (TRACK,)) if (place.dataset / f"{part}.tracks.parquet").exists() else {}
        path = place.dataset / f"{part}.keyframes.parquet"
        frames = read_keyframes(path) if path.exists() else []
        for asset_id in sorted(asset_ids):
            yield from picture_hashes(found.get(asset_id, {}).get(TRACK), [f for f in frames if f.asset_id == asset_id])


def _of(assets: Collection[str], table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("asset_id"), value_set=pa.array(sorted(assets), pa.string())))


def _read_case(path: Path) -> Case:
    data = json.loads(path.read_bytes())
    values: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(Case)):
        value = data.get(name, ())  # one of an earlier version says less
        values[name] = tuple(tuple(x) if isinstance(x, list) else x for x in value) if isinstance(value, list) else value
    return Case(**values)
