"""Which of some copies is kept."""

import pytest

from curation.keepers import copy_quality
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
    assets = [_asset("a", 1000, "mjpeg", None), _asset("b", 2000, "mjpeg", None)]
    a, b = _qualities(assets, [_clip(x.asset_id, kind="image") for x in assets])
    assert 0 < 2 * a == b


def test_what_is_not_known_is_never_the_better() -> None:
    """No detail measured, no duration or a duration of 0: quality 0, and other clips' are as they were, in the order of the clips."""
    assets = [_asset("c", 1000), _asset("a", 1000, None, None), _asset("b", 1000, duration_us=0), _asset("d", 1000)]
    clips = [_clip("a"), _clip("d", None), _clip("c"), _clip("b")]
    assert _qualities(assets, clips) == [0, 0, pytest.approx(800), 0]


def _qualities(assets: list[Asset], clips: list[Clip]) -> list[float]:
    return copy_quality(to_table(Clip, clips), to_table(Asset, assets)).to_pylist()
