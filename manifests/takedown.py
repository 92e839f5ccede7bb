"""What a takedown touches: selectors -> assets -> clips, captions, scores, sets, shards, releases, checkpoints. Reading only.

`survey` answers "find every record derived from my videos": one call, from the newest version, with nothing opened but tables.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from manifests import treefile
from manifests.events import Exposure
from manifests.ids import ID_HEX
from manifests.leaves import ASSETS, CLIPS
from manifests.purgeable import normal_url, text_key, url_key
from manifests.query import connect, rows
from manifests.records import Asset, Clip
from manifests.release_file import ReleaseError, read_release
from manifests.schema import from_row, from_table
from manifests.tables import ManifestStore

Kind = Literal["url", "asset", "hash", "channel"]
Basis = Literal["copyright", "privacy", "contract", "opt-out", "unlawful"]
BASES: tuple[Basis, ...] = ("copyright", "privacy", "contract", "opt-out", "unlawful")

FirstStep = Callable[[Exposure, str], int | None]
"""(checkpoint's exposure, clip_id) -> the first step that consumed the clip, or None: the replay of its plan, which training knows."""

MIN_PREFIX = 6
_HASH_HEX = {32: "MD5 or asset id", 64: "SHA-256"}
_IDENTITY = (
    "fps_num",
    "fps_den",
    "clip_no",
    "asset_no",
    "start_us",
    "end_us",
    "first_fail_rule",
    "decided_run_no",
    "caption_no",
    "shard_no",
)


SourceKind = Literal["addresses", "channels", "creators"]
SOURCE_COLUMNS: dict[SourceKind, tuple[str, ...]] = {
    "addresses": ("uri", "source_url", "canonical_url", "page_url"),
    "channels": ("channel_id",),
    "creators": ("creator",),
}
"""What names an owner, or the place where something of theirs was found; `other_sources` holds the same of further copies."""

_SELECTED = (
    "asset_id",
    "asset_sha256",
    "asset_md5",
    "size_bytes",
    "uri",
    "source_url",
    "canonical_url",
    "page_url",
    "channel_id",
    "creator",
    "other_sources",
)
"""What selectors look at."""


class TakedownError(Exception):
    """The request cannot be carried out; the message says what was expected, what was found and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One thing that a request names."""

    kind: Kind
    value: str

    def __post_init__(self) -> None:
        text = self.value.strip()
        if not text:
            raise TakedownError(f"--{self.kind}: expected a value, found an empty one")
        if self.kind == "hash" and (len(text) not in _HASH_HEX or not _is_hex(text)):
            raise TakedownError(f"--hash: expected 64 hexadecimal digits (SHA-256) or 32 (MD5 or asset id), found {text!r}")
        if self.kind == "asset" and (not MIN_PREFIX <= len(text) <= ID_HEX or not _is_hex(text)):
            raise TakedownError(f"--asset: expected {MIN_PREFIX} to {ID_HEX} hexadecimal digits of an asset id, found {text!r}")

    @property
    def stored(self) -> str:
        """How the selector is kept: an address or a channel as its SHA-256, since it is what has to go."""
        if self.kind == "url":
            return f"url sha256:{url_key(self.value)}"
        return f"channel sha256:{text_key(self.value)}" if self.kind == "channel" else f"{self.kind} {self.value.strip().lower()}"

    def matches(self, asset: Asset) -> bool:
        """Whether the request means this asset."""
        value = self.value.strip()
        if self.kind == "url":
            wanted = normal_url(value)
            return any(normal_url(a) == wanted for a in sources_of(asset)["addresses"])
        if self.kind == "channel":
            sources = sources_of(asset)
            names = {*sources["channels"], *(name for c in sources["creators"] for name in (c, *c.split(";")))}  # 'A; B' is by both
            return value.casefold() in {n.strip().casefold() for n in names}
        if self.kind == "asset":
            return asset.asset_id.startswith(value.lower())
        return value.lower() in (asset.asset_sha256.hex(), asset.asset_md5.hex(), asset.asset_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetHit:
    """An asset that a request means."""

    asset_id: str
    asset_no: int
    sha256: str
    md5: str
    uri: str
    source_url: str | None
    title: str | None
    creator: str | None
    licence: str | None
    n_copies: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipHit:
    """A clip derived from one, with everything the dataset says of it. Times in us; scores by column, unmeasured ones left out."""

    clip_id: str
    clip_no: int
    asset_id: str
    kind: str
    start_us: int
    end_us: int
    decision: str
    set_name: str | None
    fits_sets: str | None
    bucket: str | None
    captions: tuple[str, ...]
    scores: dict[str, float]
    shard: str | None
    members: tuple[str, ...]
    """'extension offset+size' of each of its files in the shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHit:
    """A release that holds some of them."""

    name: str
    clips: int
    assets: int
    signed_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointHit:
    """A checkpoint that was trained on some of them, with the first step that saw each clip."""

    run_path: str
    checkpoint: str
    stage: str
    end_step: int
    first_steps: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Radius:
    """Everything that a request touches."""

    assets: tuple[AssetHit, ...]
    clips: tuple[ClipHit, ...]
    releases: tuple[ReleaseHit, ...]
    checkpoints: tuple[CheckpointHit, ...]

    @property
    def shards(self) -> tuple[str, ...]:
        """The shards that hold some of the clips, of the newest version."""
        return tuple(sorted({c.shard for c in self.clips if c.shard}))


def sources_of(asset: Asset) -> dict[SourceKind, list[str]]:
    """Where the bytes of the asset were found and who published them, of every copy: addresses and paths, channels, creators."""
    other = json.loads(asset.other_sources) if asset.other_sources else {}
    own = {n: [t for column in columns if (t := getattr(asset, column))] for n, columns in SOURCE_COLUMNS.items()}
    return {n: list(dict.fromkeys([*values, *other.get(n, ())])) for n, values in own.items()}


def survey(store: ManifestStore, selectors: Sequence[Selector], first_step: FirstStep) -> Radius:
    """Everything derived from what the selectors mean, at the newest version."""
    return survey_assets(store, resolve(store, selectors), first_step)


def resolve(store: ManifestStore, selectors: Iterable[Selector]) -> list[str]:
    """The ids of the assets that the selectors mean, also of those taken down before. An id given in part must be of one asset only."""
    assets: list[Asset] = from_table(Asset, store.read("assets", columns=list(_SELECTED)))
    found: set[str] = set()
    for selector in selectors:
        hits = [a.asset_id for a in assets if selector.matches(a)]
        if selector.kind == "asset" and len(hits) > 1:
            raise TakedownError(f"--asset {selector.value}: expected digits of one asset, found {len(hits)}: {', '.join(sorted(hits)[:8])}")
        found.update(hits)
    return sorted(found)


def survey_assets(store: ManifestStore, asset_ids: Sequence[str], first_step: FirstStep) -> Radius:
    """Everything derived from these assets."""
    con = connect(store, None)
    try:
        wanted = list(asset_ids)
        assets = rows(con, "SELECT * FROM assets WHERE list_contains(?::VARCHAR[], asset_id) ORDER BY asset_no", wanted)
        clips = rows(con, "SELECT * FROM clips WHERE list_contains(?::VARCHAR[], asset_id) ORDER BY clip_no", wanted)
        numbers = [c["clip_no"] for c in clips]
        captions = rows(con, "SELECT clip_no, text FROM captions WHERE list_contains(?::BIGINT[], clip_no)", numbers)
        members = rows(con, 'SELECT * FROM members WHERE list_contains(?::BIGINT[], clip_no) ORDER BY shard_no, "offset"', numbers)
        paths = {r["shard_no"]: r["path"] for r in rows(con, "SELECT shard_no, path FROM shards")}
    finally:
        con.close()
    hits = tuple(_clip(from_row(Clip, c), captions, members, paths) for c in clips)
    of_assets = tuple(_asset(from_row(Asset, a)) for a in assets)
    return Radius(
        assets=of_assets,
        clips=hits,
        releases=tuple(_releases(store, hits, of_assets)),
        checkpoints=tuple(_checkpoints(store, of_assets, first_step)),
    )


def _asset(a: Asset) -> AssetHit:
    return AssetHit(
        asset_id=a.asset_id,
        asset_no=a.asset_no,
        sha256=a.asset_sha256.hex(),
        md5=a.asset_md5.hex(),
        uri=a.uri,
        source_url=a.source_url,
        title=a.title,
        creator=a.creator,
        licence=a.licence_expr,
        n_copies=a.n_copies,
        state=a.state,
    )


def _clip(c: Clip, captions: list[dict[str, Any]], members: list[dict[str, Any]], paths: dict[int, str]) -> ClipHit:
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(Clip) if f.name not in _IDENTITY}
    mine = [m for m in members if m["clip_no"] == c.clip_no]
    return ClipHit(
        **{n: values[n] for n in ("clip_id", "asset_id", "kind", "decision", "set_name", "fits_sets", "bucket")},
        clip_no=c.clip_no,
        start_us=c.start_us,
        end_us=c.end_us,
        captions=tuple(x["text"] for x in captions if x["clip_no"] == c.clip_no and x["text"]),
        scores={n: v for n, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)},
        shard=next((paths[m["shard_no"]] for m in mine), None),
        members=tuple(f"{m['extension']} {m['offset']}+{m['size_bytes']}" for m in mine),
    )


def _releases(store: ManifestStore, clips: Sequence[ClipHit], assets: Sequence[AssetHit]) -> Iterable[ReleaseHit]:
    """The releases whose trees hold a row of them."""
    for path in sorted((store.root / "releases").glob("*/release.json")):
        in_clips, in_assets = treefile.open_tree(path.parent, CLIPS), treefile.open_tree(path.parent, ASSETS)
        n_clips = sum(in_clips.find(bytes.fromhex(c.clip_id)) is not None for c in clips)
        n_assets = sum(in_assets.find(bytes.fromhex(a.sha256)) is not None for a in assets if len(a.sha256) == 64)
        if n_clips or n_assets:
            yield ReleaseHit(name=path.parent.name, clips=n_clips, assets=n_assets, signed_by=signer_of(path.parent))


def signer_of(release: Path) -> str | None:
    """The id of the key that signed a release; None where nobody did. TakedownError when the release cannot be read."""
    from manifests.signing import public_from_pem

    try:
        key = read_release(release).public_key
    except ReleaseError as error:
        raise TakedownError(f"{release}: expected a release that can be amended, found none: {error}") from error
    return None if key is None else str(public_from_pem(key.encode()).keyid)


def _checkpoints(store: ManifestStore, assets: Sequence[AssetHit], first_step: FirstStep) -> Iterable[CheckpointHit]:
    """The checkpoints that saw clips of the assets, as these were cut in the version that each was trained on."""
    exposures: list[Exposure] = from_table(Exposure, store.read("exposures"))
    mine, clips = pa.array([a.asset_id for a in assets], pa.string()), dict[int, list[str]]()
    for exposure in exposures if assets else []:
        version = exposure.manifest_version
        if version not in clips:
            table = store.read("clips", version, ["clip_id", "asset_id"])
            clips[version] = table.filter(pc.is_in(table.column("asset_id"), value_set=mine)).column("clip_id").to_pylist()
        steps = {c: step for c in clips[version] if (step := first_step(exposure, c)) is not None}
        if steps:
            yield CheckpointHit(
                run_path=exposure.run_path,
                checkpoint=exposure.checkpoint,
                stage=exposure.stage,
                end_step=exposure.end_step,
                first_steps=steps,
            )


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)
