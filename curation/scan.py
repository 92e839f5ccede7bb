"""The one decode of an asset: Asset -> Scan (map). Every frame is decoded once and shown to every observer; nothing is decoded again.

A scan holds what measures need, as tracks (numbers by presentation time) and key frames (small pictures where the picture changed);
it knows nothing of shots, clips or thresholds, so that all of these can change without the medium being opened.
"""

from collections.abc import Iterable, Sequence

from curation import media
from curation.media import DecodeLog, MediaConfig
from curation.observe import Observer, SmallFrames
from curation.probe import probe, with_facts
from curation.tracks import Track
from manifests.records import Asset


def watch(path: str, asset: Asset, observers: Sequence[Observer], cfg: MediaConfig, log: DecodeLog | None = None) -> list[Track]:
    """All tracks of the observers after one decode of the video; `asset` gives its size as shown. Raises MediaError."""
    small = SmallFrames(asset.width or 16, asset.height or 16)
    for source, pts_us in media.decode(path, cfg, log=log):
        frame = small(source, pts_us)
        for observer in observers:
            observer.push(frame)
    return [track for observer in observers for track in observer.finish()]


def tracks_of(path: str, observers: Sequence[Observer], cfg: MediaConfig | None = None) -> Iterable[Track]:
    """The tracks of a file that was not probed before: for tests, benchmarks and trying an observer out."""
    cfg = cfg or MediaConfig()
    asset = with_facts(Asset(asset_id="", asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=path), probe(path, cfg))
    return watch(path, asset, observers, cfg)
