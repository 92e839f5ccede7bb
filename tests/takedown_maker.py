"""A made-up dataset with secrets in every place where text, pictures or media lie, and the search that finds what is left of them."""

import dataclasses
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import hash_observer, keyframes, soundtrack, tracks
from curation.keyframes import KeyFrame
from curation.tracks import Track
from manifests.events import Exposure
from manifests.records import Asset, Caption, Clip
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore, write_parquet
from tests.release_maker import make_dataset, payload

URL = "https://Example.org/films/{}"
SCAN = "work/scan/0123456789abcdef/0000"
SECRETS = ("TITLE", "SUPPLIED", "CREATOR", "OTHER", "SIGNAL", "CONTRACT")
"""Texts of an asset that have to go."""


@dataclass(frozen=True)
class Place:
    """The dataset, one asset of it, and everything that must not be found once that is taken down."""

    root: Path
    store: ManifestStore
    asset: Asset
    clips: tuple[Clip, ...]
    needles: dict[str, bytes]


def make_place(root: Path, n_clips: int = 60) -> Place:
    """Two versions of a dataset, a work area, and a file of the collection that lies inside the dataset."""
    store = make_dataset(root, n_clips)
    assets = [_with_secrets(a, root) for a in from_table(Asset, store.read("assets"))]
    clips: list[Clip] = from_table(Clip, store.read("clips"))
    clips = [dataclasses.replace(c, scan_part=SCAN, error_detail=f"SECRET-DETAIL-{c.clip_no}") for c in clips]
    captions: list[Caption] = from_table(Caption, store.read("captions"))
    captions = [dataclasses.replace(c, text=f"SECRET-CAPTION-{c.clip_no}") for c in captions]
    store.commit(
        "1" * 32, replace={"assets": to_table(Asset, assets), "clips": to_table(Clip, clips), "captions": to_table(Caption, captions)}
    )
    kept = {c.asset_no for c in clips if c.decision == "keep"}
    asset = next(a for a in assets if a.asset_no in kept and a.kind == "video")
    mine = tuple(c for c in clips if c.asset_no == asset.asset_no)
    needles = {"media": _media(asset), "address": asset.uri.encode(), "page": b"/films/%d" % asset.asset_no + b"?"}
    needles |= {f"{name} {n}": f"SECRET-{name}-{n}".encode() for name, n in ((s, asset.asset_no) for s in SECRETS)}
    for clip in mine:
        needles |= {f"detail {clip.clip_no}": f"SECRET-DETAIL-{clip.clip_no}".encode()}
        needles |= {f"payload {clip.clip_no} {e}": payload(clip.clip_id, e)[:32] for e in ("mp4", "txt")}
        if clip.decision == "keep":
            needles |= {f"caption {clip.clip_no}": f"SECRET-CAPTION-{clip.clip_no}".encode()}
    for other in assets:
        _write_work(root, other, [c for c in clips if c.asset_no == other.asset_no])
    needles["key frame"], needles["hash"], needles["sound"] = _jpeg(asset)[-200:-140], _hash(asset), b"SOUND-%06d" % asset.asset_no
    return Place(root, store, asset, mine, needles)


def found(place: Place) -> set[str]:
    """Which of the secrets are left, in which files: raw, and inside the values of every Parquet file, which are packed."""
    left = set()
    for path in sorted(p for p in place.root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += b"\n".join(_values(pq.ParquetFile(io.BytesIO(data)).read()))
        left |= {f"{name} in {path.relative_to(place.root)}" for name, needle in place.needles.items() if _has(data, needle)}
    return left


def add_checkpoint(place: Place) -> None:
    """A checkpoint that was trained on the newest version."""
    texts = dict.fromkeys(("plan_digest", "plan_json", "rolling_digest"), "x")
    exposure = Exposure(
        run_no=1, checkpoint="checkpoints/step-8", run_path="/runs/a", stage="tae", manifest_version=place.store.version(),
        first_step=0, end_step=8, n_samples=64, exceptions_json="[]", **texts,
    )  # fmt: skip
    place.store.commit("c" * 32, append={"exposures": to_table(Exposure, [exposure])})


def _has(data: bytes, needle: bytes) -> bool:
    """Whether the bytes are there, and not as the beginning of a longer number."""
    at = data.find(needle)
    while at >= 0:
        following = data[at + len(needle) : at + len(needle) + 1]
        if not (needle[-1:].isdigit() and following.isdigit()):
            return True
        at = data.find(needle, at + 1)
    return False


def _values(table: pa.Table) -> Iterator[bytes]:
    def flat(value: Any) -> Iterator[bytes]:
        if isinstance(value, (list, tuple)):
            for v in value:
                yield from flat(v)
        elif isinstance(value, dict):
            yield from flat(list(value.values()))
        elif isinstance(value, (str, bytes)):
            yield value.encode() if isinstance(value, str) else value

    for column in table.columns:
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            yield from flat(column.to_pylist())


def _with_secrets(asset: Asset, root: Path) -> Asset:
    n = asset.asset_no
    path = root / "collection" / f"SECRET-NAME-{n}.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_media(asset))
    path.with_name(path.name + ".json").write_text(f'{{"title": "SECRET-TITLE-{n}"}}')
    return dataclasses.replace(
        asset,
        uri=str(path),
        source_url=URL.format(n) + "?",
        title=f"SECRET-TITLE-{n}",
        creator=f"SECRET-CREATOR-{n}",
        other_sources=json.dumps({"creators": [f"SECRET-OTHER-{n}"]}),
        optout_signals=f"robots=SECRET-SIGNAL-{n}",
        contract_id=f"SECRET-CONTRACT-{n}",
        channel_id=f"channel-{n}",
        supplied_caption=f"SECRET-SUPPLIED-{n}",
        scan_part=SCAN,
    )


def _media(asset: Asset) -> bytes:
    return b"MEDIA-%06d-" % asset.asset_no * 50


def _jpeg(asset: Asset) -> bytes:
    picture = np.random.Generator(np.random.Philox(key=asset.asset_no)).integers(0, 255, (64, 64, 3), np.uint8)
    return keyframes.encode_jpeg(np.asarray(picture, np.uint8))


def _hash(asset: Asset) -> bytes:
    return bytes(np.random.Generator(np.random.Philox(key=1000 + asset.asset_no)).integers(0, 255, 32, np.uint8))


def _write_work(root: Path, asset: Asset, clips: list[Clip]) -> None:
    """Parts as curation leaves them: of the scan (several assets in one), of encoding, of captions, and a fetched copy."""
    stem = root / SCAN
    hashes = Track(
        name=hash_observer.TRACK,
        fields=("quality",),
        pts_us=np.array([0], np.int64),
        values=np.array([[100.0]], np.float32),
        pictures=np.frombuffer(_hash(asset), np.uint8).reshape(1, 4, 8),
    )
    frame = KeyFrame(asset_id=asset.asset_id, index=0, pts_us=0, width=64, height=64, jpeg=_jpeg(asset))
    sound = dict.fromkeys(soundtrack.SCHEMA.names, 0) | {"asset_id": asset.asset_id, "flac": b"SOUND-%06d" % asset.asset_no}
    _append(stem.with_name("0000.tracks.parquet"), tracks.to_table(asset.asset_id, [hashes]))
    _append(stem.with_name("0000.keyframes.parquet"), keyframes.to_table([frame]))
    _append(stem.with_name("0000.sound.parquet"), pa.Table.from_pylist([sound], schema=soundtrack.SCHEMA))
    _append(stem.with_name("0000.parquet"), to_table(Asset, [asset]))
    for clip in clips:
        unit = root / "work" / "encode" / "0123456789abcdef" / clip.clip_id
        write_parquet(unit.with_suffix(".payload.parquet"), pa.table({"clip_id": [clip.clip_id], "data": [payload(clip.clip_id, "mp4")]}))
        write_parquet(unit.with_suffix(".parquet"), pa.table({"clip_id": [clip.clip_id], "encoded": [1.0]}))
        text = f"SECRET-CAPTION-{clip.clip_no}"
        _append(root / "work/caption/0123456789abcdef/0000.parquet", pa.table({"clip_id": [clip.clip_id], "text": [text]}))
    fetched = root / "work" / "fetched" / asset.asset_id
    fetched.parent.mkdir(parents=True, exist_ok=True)
    fetched.write_bytes(_media(asset))


def _append(path: Path, table: pa.Table) -> None:
    write_parquet(path, pa.concat_tables([pq.read_table(path), table]) if path.exists() else table)
