"""What can be trained on: one `Sample` for each video, image or sound member of a dataset's shards."""

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq

from manifests.files import write_atomic
from manifests.ids import digest, uniform
from training.errors import TrainingError

Kind = Literal["video", "image", "audio"]

KIND_OF_EXTENSION: dict[str, Kind] = {"mp4": "video", "jpg": "image", "flac": "audio"}

SOUND_FRAMES_PER_S = 25
"""Latents a second of the codec of sound (Movie Gen Audio)."""

BESIDE = ("source.mp4", "source.jpg", "mask.jpg", "face.jpg")
"""Members that a clip may have beside its own: what it was edited from, what of it is to be marked, the face of its person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A further member of a clip in its shard."""

    extension: str
    offset: int
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One member of one shard, with all that is needed to read and decode it without the tar's own names."""

    clip_id: str
    clip_no: int
    kind: Kind
    set_name: str
    bucket: str
    shard_path: str
    offset: int
    size_bytes: int
    sha256: bytes
    width: int | None
    height: int | None
    n_frames: int | None
    fps_num: int | None
    fps_den: int | None
    group: str
    """Clips that must not be split between training and hold-out share it: those of one asset or one duplicate group."""
    has_sound: bool | None = None
    """Whether it carries sound that is not silence all through; None for no. Stages of sound take these, whatever their kind."""
    sound_us: int | None = None
    """Length of its sound, in microseconds."""
    beside: tuple[Beside, ...] = ()

    def other(self, *extensions: str) -> "Sample | None":
        """The sample with the first of these members in place of its own; None when it has none of them."""
        found = {b.extension: b for b in self.beside}
        for chosen in (found[e] for e in extensions if e in found):
            return replace(self, offset=chosen.offset, size_bytes=chosen.size_bytes, sha256=chosen.sha256)
        return None


def frozen_version(dataset: Path, release: str = "") -> tuple[int, dict[str, str] | None]:
    """(manifest version, name and Merkle root of the release of that name), or the dataset's newest version and None without a name.

    TrainingError when there is no manifest, or no such release of this dataset: its tables are the version's. `dailies verify` checks the rest.
    """
    from manifests.release_file import RELEASES, ReleaseError, checked_name, read_release
    from manifests.tables import ManifestStore

    if not release:
        version = ManifestStore(dataset).version()
        if version < 0:
            raise TrainingError(f"{dataset}: expected a committed manifest, found none")
        return version, None
    try:
        found = read_release(dataset / RELEASES / checked_name(release))
    except (ReleaseError, ValueError) as error:
        raise TrainingError(f"{dataset}: expected a release {release!r} of `dailies release`, found none: {error}") from error
    store, root = ManifestStore(dataset), dataset.absolute()
    known = found.name == release and found.version in store.readable()
    for table, entries in found.tables.items():
        if not known or {str(Path(p).relative_to(root)) for p in store.files(table, found.version)} != {e.path for e in entries}:
            raise TrainingError(
                f"{dataset / RELEASES / release}: expected the release {release!r} of this dataset, found one of other tables than those of "
                f"version {found.version}: it is another dataset's, or was made anew"
            )
    return found.version, {"name": found.name, "merkle_root": found.root}


def load_samples(dataset: Path, version: int, *, groups_by_clip: bool = False) -> list[Sample]:
    """The samples of a dataset at a manifest version, in index order: the members of the clips that it keeps.

    A clip that was decided again lies in its shard until the next curation writes that anew; it is no sample from then on. With `groups_by_clip`
    hold-out groups have the names that they had first, which moved when an asset gained a clip: to replay a plan of then.
    """
    from manifests.tables import ManifestStore

    store = ManifestStore(dataset)
    clips = store.read("clips", version)
    kept = clips.filter(pc.equal(clips.column("decision"), "keep")).column("clip_id").combine_chunks()
    members = store.read("members", version)
    found = index_samples(store.read("shards", version), members.filter(pc.is_in(members.column("clip_id"), value_set=kept)), clips)
    if not groups_by_clip:
        return found
    first: dict[str, str] = {}
    for clip, group in sorted(hold_out_groups(clips).items()):
        first.setdefault(group, clip)
    return [replace(s, group=first.get(s.group, s.group)) for s in found]


def index_samples(shards: pa.Table, members: pa.Table, clips: pa.Table | None = None) -> list[Sample]:
    """One sample a video, image or sound member, ordered by (set, bucket, clip_id); columns as in `manifests.records`.

    With `clips`, the hold-out groups are the connected components of shared assets and duplicate groups, and videos may have sound;
    without, each clip is alone and a video silent.
    """
    by_shard = {row["shard_no"]: row for row in shards.to_pylist()}
    groups = {} if clips is None else hold_out_groups(clips)
    audible = set() if clips is None else _audible(clips)
    rows = members.to_pylist()
    beside: dict[tuple[str, int], list[Beside]] = {}
    for member in rows:
        if member["extension"] in BESIDE:
            place = Beside(**{name: member[name] for name in ("extension", "offset", "size_bytes", "sha256")})
            beside.setdefault((member["clip_id"], member["shard_no"]), []).append(place)
    samples = []
    for member in rows:
        if kind := KIND_OF_EXTENSION.get(member["extension"]):
            shard = by_shard.get(member["shard_no"])
            if shard is None:
                raise TrainingError(f"members: clip {member['clip_id']}: expected shard {member['shard_no']} in shards, found none")
            heard = member["clip_id"] in audible or (clips is None and kind == "audio")
            made = _sample(kind, shard, member, groups.get(member["clip_id"], member["clip_id"]), heard)
            samples.append(replace(made, beside=tuple(beside.get((member["clip_id"], member["shard_no"]), ()))))
    return sorted(samples, key=lambda s: (s.set_name, s.bucket, s.clip_id))


def split_holdout(samples: list[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """(training, held out): whole groups whose hash falls below the share, at least one; the same in every run and stage.

    Raises TrainingError when fewer than two groups exist, as nothing would be left to train on or to measure with.
    """
    draw = {g: uniform("holdout/v1", g) for g in {s.group for s in samples}}
    if len(draw) < 2:
        raise TrainingError(f"hold-out: expected clips of at least 2 unrelated assets, found {len(draw)}")
    held_groups = {g for g, u in draw.items() if u < share} or {min(draw, key=lambda g: draw[g])}
    if len(held_groups) == len(draw):
        raise TrainingError(f"hold-out: expected a share that leaves something to train on, found {share} of {len(draw)} groups")
    held = sorted((s for s in samples if s.group in held_groups), key=lambda s: (draw[s.group], s.clip_id))
    return [s for s in samples if s.group not in held_groups], held


def index_digest(samples: list[Sample], *, with_places: bool = False) -> str:
    """A digest of what a plan depends on: which clips, of which kind, in which bucket, in which order; `with_places` also their sizes
    and shards, on which `plan/v2` depends. Not where in a shard their bytes lie."""
    if with_places:
        return digest("index/v2", *(f"{s.clip_id} {_form(s)} {s.shard_path}" for s in samples))
    return digest("index/v1", *(f"{s.clip_id} {s.kind} {s.set_name} {s.bucket}" for s in samples))


def write_samples(path: Path, samples: list[Sample]) -> None:
    """The samples lie in a Parquet file that `read_samples` reads back, so that a run keeps the index it was planned from."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(s) for s in samples], schema=_SCHEMA), sink, compression="zstd", row_group_size=_ROWS)
    write_atomic(path, memoryview(sink.getvalue()))


def read_samples(path: Path) -> list[Sample]:
    """The samples of a file that `write_samples` wrote."""
    samples, known = [], dict[str, str]()
    for batch in pa_dataset.dataset(path, schema=_SCHEMA, format="parquet").to_batches(batch_size=_ROWS, use_threads=False):
        columns = {name: batch.column(name).to_pylist() for name in _SCHEMA.names}
        for name in ("kind", "set_name", "bucket", "shard_path", "group"):  # few texts, which every row would have of its own
            columns[name] = [known.setdefault(text, text) for text in columns[name]]
        columns["beside"] = [tuple(Beside(**b) for b in found or ()) for found in columns["beside"]]
        samples += [Sample(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    return samples


def _form(sample: Sample) -> str:
    return f"{sample.kind} {sample.set_name} {sample.bucket} {sample.width}x{sample.height}x{sample.n_frames}"


def _sample(kind: Kind, shard: dict[str, Any], member: dict[str, Any], group: str, heard: bool) -> Sample:
    known = {name: member[name] for name in ("clip_id", "clip_no", "offset", "size_bytes", "sha256")}
    place = {"set_name": shard["set_name"], "bucket": shard["bucket"], "shard_path": shard["path"]}
    facts = {name: member[name] if member[name] is not None else shard[name] for name in ("n_frames", "fps_num", "fps_den")}
    size = {"width": shard["width"], "height": shard["height"]}
    return Sample(
        kind=kind, group=group, has_sound=heard, sound_us=_sound_us(kind, shard["bucket"], facts), **size, **known, **place, **facts
    )


def _audible(clips: pa.Table) -> set[str]:
    """The clips that carry sound which was not measured to be silence all through."""
    rows = clips.select([name for name in ("clip_id", "has_audio", "silence_fraction") if name in clips.column_names]).to_pylist()
    return {row["clip_id"] for row in rows if row.get("has_audio") and not (row.get("silence_fraction") or 0.0) >= 1.0}


def _sound_us(kind: Kind, bucket: str, facts: dict[str, Any]) -> int | None:
    """A bucket of sounds is named by its seconds; a video's sound is as long as its pictures. None where neither is known."""
    if kind == "audio":
        found = re.fullmatch(r"(\d+(?:\.\d+)?)s", bucket)
        return round(float(found[1]) * 1_000_000) if found else None
    if not (facts["n_frames"] and facts["fps_num"] and facts["fps_den"]):
        return None
    return int(facts["n_frames"] * 1_000_000 * facts["fps_den"] // facts["fps_num"])


def hold_out_groups(clips: pa.Table) -> dict[str, str]:
    """Clip id -> name of its component: clips are joined by a shared asset or a shared duplicate group (union-find). A component's name is
    its smallest asset id, or clip id where an asset is not known, so that it stays when an asset gains clips."""
    rows = clips.select(["clip_id", "asset_id", "asset_no", "dup_group"]).to_pylist()
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for clip in rows:
        for other in (f"asset {clip['asset_no']}", f"dup {clip['dup_group']}" if clip["dup_group"] else None):
            if other and not (other.startswith("asset") and clip["asset_no"] < 0):
                a, b = sorted((root(f"clip {clip['clip_id']}"), root(other)))
                parent[b] = a
    smallest: dict[str, str] = {}
    for name, clip_id in sorted((clip["asset_id"] or clip["clip_id"], clip["clip_id"]) for clip in rows):
        smallest.setdefault(root(f"clip {clip_id}"), name)
    return {clip["clip_id"]: smallest[root(f"clip {clip['clip_id']}")] for clip in rows}


_ROWS = 1 << 16
"""Rows of a file that are in memory twice while they are read."""

_TYPES: dict[Any, pa.DataType] = {bytes: pa.binary(), int: pa.int64(), int | None: pa.int64(), bool | None: pa.bool_()}
_TYPES[tuple[Beside, ...]] = pa.list_(pa.struct([(f.name, _TYPES.get(f.type, pa.string())) for f in fields(Beside)]))
_SCHEMA = pa.schema([(f.name, _TYPES.get(f.type, pa.string())) for f in fields(Sample)])
