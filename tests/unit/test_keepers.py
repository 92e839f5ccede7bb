"""Which of some copies is kept."""

import contextlib
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.keepers import EFFICIENCY, copy_quality
from curation.media import MediaConfig, MediaError
from curation.probe import probe, with_facts
from manifests.records import Asset, Clip
from manifests.schema import to_table

CUT = 10_000_000


def _asset(name: str, size_bytes: int, vcodec: str | None = "h264", duration_us: int | None = CUT) -> Asset:
    return Asset(asset_id=name, asset_sha256=b"", asset_md5=b"", size_bytes=size_bytes, uri=name, vcodec=vcodec, duration_us=duration_us)


def _clip(asset: str, detail: float | None = 1.0, kind: str = "video") -> Clip:
    return Clip(clip_id=asset, asset_id=asset, kind=kind, start_us=0, end_us=CUT, effective_resolution=detail)


def test_bits_detail_and_coder_count() -> None:
    """More bits a second win; enlarging loses what detail it lacks; a bit of HEVC is worth more, of MPEG-2 less than one of H.264."""
    assets = [_asset("plain", 1000), _asset("coarse", 500), _asset("long", 2000, duration_us=2 * CUT), _asset("enlarged", 1500)]
    assets += [_asset("hevc", 1000, "hevc"), _asset("old", 1000, "mpeg2video"), _asset("unheard of", 1000, "x")]
    clips = [_clip(a.asset_id, 0.5 if a.asset_id == "enlarged" else 1) for a in assets]
    found = dict(zip((a.asset_id for a in assets), _qualities(assets, clips), strict=True))
    assert found["plain"] == pytest.approx(800)  # bit/s
    assert found["long"] == found["plain"] == found["unheard of"] > found["enlarged"] > found["coarse"]
    assert found["hevc"] > found["plain"] > found["old"]


def test_a_still_is_told_by_its_bits() -> None:
    """A picture has no duration: its bits count as they are."""
    assets = [_asset("a", 1000, "jpeg", None), _asset("b", 2000, "jpeg", None)]
    a, b = _qualities(assets, [_clip(x.asset_id, kind="image") for x in assets])
    assert 0 < 2 * a == b


def test_a_jpeg_of_a_png_is_its_copy(tmp_path: Path) -> None:
    """Of a photograph as PNG and its JPEG the first is the better one, by the names that a probe gives their coders."""
    rng = np.random.Generator(np.random.Philox(key=5))
    photograph = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), (0, 0), 1.2)
    cv2.imwrite(str(tmp_path / "a.png"), photograph)
    cv2.imwrite(str(tmp_path / "a.jpg"), photograph, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assets = []
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        assets.append(with_facts(_asset(path.name, path.stat().st_size), probe(str(path), MediaConfig())))
    assert {a.vcodec for a in assets} <= set(EFFICIENCY)
    png, jpeg = _qualities(assets, [_clip(a.asset_id, kind="image") for a in assets])
    assert png > jpeg > 0


def test_coders_of_real_media_are_known(media: Path) -> None:
    """Every coder of the real videos and pictures but H.264 has a worth of its own, under the name that a probe gives it."""
    found = set()
    for path in sorted([*(media / "video").iterdir(), *(media / "image").iterdir()]):
        with contextlib.suppress(MediaError):
            found.add(probe(str(path), MediaConfig()).vcodec)
    assert {"h264", "hevc", "vp9", "av1", "jpeg", "png"} <= found
    assert found - {"h264", None} <= set(EFFICIENCY)


def test_sound_stored_as_it_is_is_no_quality() -> None:
    """A copy with uncompressed sound has no more of the picture: its sound does not count."""
    loud = dataclasses.replace(_asset("loud", 1000 + 240_000), acodec="pcm_s16le", has_audio=True, sample_rate_hz=12_000, channels=1)
    assert _qualities([loud, _asset("still", 1000)], [_clip("loud"), _clip("still")]) == [pytest.approx(800), pytest.approx(800)]


def test_what_is_not_known_is_never_the_better() -> None:
    """No detail measured, no duration or a duration of 0: quality 0, and other clips' are as they were, in the order of the clips."""
    assets = [_asset("c", 1000), _asset("a", 1000, None, None), _asset("b", 1000, duration_us=0), _asset("d", 1000)]
    clips = [_clip("a"), _clip("d", None), _clip("c"), _clip("b")]
    assert _qualities(assets, clips) == [0, 0, pytest.approx(800), 0]


def _qualities(assets: list[Asset], clips: list[Clip]) -> list[float]:
    return copy_quality(to_table(Clip, clips), to_table(Asset, assets)).to_pylist()
