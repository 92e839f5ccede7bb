"""A file outside the dataset, seen as a curation would see it: hashed, and decoded in the sandbox. Nothing of it is kept on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curation.hash_observer import HashObserver
from curation.isolate import Sandbox
from curation.keyframes import KeyFrame
from curation.media import MediaError
from curation.probe import probe_asset
from curation.scan import ScanConfig, failed, scan_asset, watch
from curation.tracks import Track, Tracks, by_name
from manifests import ids
from manifests.records import Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The file with its hashes and facts, and what one decode left; only the hashes, and `error_code`, where it cannot be decoded."""

    asset: Asset
    tracks: Tracks = field(default_factory=dict)
    keyframes: Sequence[KeyFrame] = ()
    every: Track | None = None
    """The track `hashes` of all of a video's pictures, where that was asked for; `tracks` has eight a second."""


def hash_every_picture(asset: Asset, path: str, cfg: ScanConfig) -> list[Track]:
    """The track `hashes` with every picture of a video. Raises MediaError."""
    return watch(path, asset, [HashObserver(least_us=0)], cfg.media)


def watch_file(file: Path, every_picture: bool = False) -> Watched:
    """What the file shows. OSError when it cannot be read at all; what is wrong with its content stands in its asset.

    With `every_picture` a video is decoded once more, for the hashes of all its pictures: a moving one sampled at other moments than the
    dataset's own samples may share no hash with them.
    """
    with file.open("rb") as source:
        sha256, md5, size = ids.hash_stream(source)
    asset = Asset(asset_id=ids.asset_id(sha256), asset_sha256=sha256, asset_md5=md5, size_bytes=size, uri=str(file))
    cfg = ScanConfig()
    with Sandbox(cfg.media.max_wall_s + 30, cfg.media.memory_bytes) as sandbox:
        try:
            asset = sandbox.call(probe_asset, asset, str(file), cfg.media)
            if asset.error_stage is not None:
                return Watched(asset=asset)
            found = sandbox.call(scan_asset, asset, str(file), cfg)
            dense = every_picture and found.asset.kind == "video" and found.asset.error_code is None
            every = sandbox.call(hash_every_picture, found.asset, str(file), cfg) if dense else [None]
        except MediaError as error:
            return Watched(asset=failed(asset, error))
    return Watched(asset=found.asset, tracks=by_name(found.tracks), keyframes=found.keyframes, every=every[0])
