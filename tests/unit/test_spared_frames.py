"""Frames of packets too short to hold a change: which are spared the decoder, and what is shown in their place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import decode
from curation.cut_series import ShotObserver
from curation.decode import DecodeLog
from curation.media import MediaConfig
from curation.observe import SmallFrames
from curation.probe import probe, with_facts
from curation.scan import ScanConfig, scan_asset, watch
from curation.spared_frames import CHECK_EVERY, PROOFS, Spare, is_lone_b_frame, units_of
from manifests.records import Asset
from tests.media_makers import MEDIA, pan, still, write_video

CFG = MediaConfig()
X264 = {"preset": "veryfast", "crf": "30", "x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=1000"}


def _watch(path: Path) -> tuple[list[int], list[np.ndarray], DecodeLog]:
    """Times and small luma planes of what is shown when frames are spared, and the log."""
    log = DecodeLog()
    spare, small, times, planes = Spare(log), SmallFrames(320, 192), [], []
    for source, pts_us in decode.decode(str(path), CFG, spare=spare, log=log):
        frame = small(source, pts_us)
        spare.saw(frame)
        times.append(pts_us)
        planes.append(frame.y)
    return times, planes, log


def _all(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """The same of every frame decoded."""
    small = SmallFrames(320, 192)
    frames = [small(source, pts_us) for source, pts_us in decode.decode(str(path), CFG)]
    return [f.pts_us for f in frames], [f.y for f in frames]


def _slides(n: int, every: int) -> Iterator[np.ndarray]:
    """A picture with detail that is another one after so many frames."""
    return (frame for k in range(-(-n // every)) for frame in still(k + 1, min(every, n - k * every)))


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_a_picture_that_stands_is_not_decoded_again(tmp_path: Path, suffix: str) -> None:
    """Of two slides most B-frames are spared, with lengths or with start codes in the packets; times are those of all frames, and no
    picture is off by more than coding noise."""
    path = write_video(tmp_path / f"a.{suffix}", _slides(480, 240), options=X264)
    times, planes, log = _watch(path)
    expected_times, expected = _all(path)
    assert times == expected_times and log.n_frames == 480
    assert log.n_spared > 150 and log.n_packets == 481 - log.n_spared  # with the one that fetches the last frames
    assert max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(planes, expected, strict=True)) < 0.1


def test_a_picture_that_moves_is_decoded(tmp_path: Path) -> None:
    """Packets of a camera that pans are too long to be spared."""
    _, _, log = _watch(write_video(tmp_path / "a.mp4", pan(1, 120), options=X264))
    assert log.n_spared == 0 and log.n_frames == 120


def test_flat_pictures_are_decoded(tmp_path: Path) -> None:
    """All of a grey picture may change within a few bytes: though it stood for five seconds, nothing is spared, and every level is seen."""
    levels = np.r_[np.full(120, 100), 100 + 20 * np.sin(np.arange(120) / 10)].astype(np.uint8)
    path = write_video(tmp_path / "a.mp4", (np.full((192, 320, 3), v, np.uint8) for v in levels), options=X264)
    times, planes, log = _watch(path)
    assert log.n_spared == 0
    assert [int(p.mean()) for p in planes] == [int(p.mean()) for p in _all(path)[1]] and len(times) == 240


class _Packet:
    """What `Spare` asks of a packet."""

    def __init__(self, pts: int, data: bytes, discard: bool = False) -> None:
        self.pts, self.size, self.is_discard, self._data = pts, len(data), discard, data
        self.stream = type(
            "Stream", (), {"codec_context": type("C", (), {"name": "h264", "width": 1280, "height": 720, "extradata": None})}
        )

    def __bytes__(self) -> bytes:
        return self._data


class _Shown:
    """What it asks of a frame."""

    def __init__(self, pts: int, change: float, interlaced: bool = False, flat: bool = False) -> None:
        self.change, self.y = change, np.arange(256, dtype=np.uint8)[None] // (64 if flat else 1)
        self.source = type("Source", (), {"pts": pts, "interlaced_frame": interlaced})


SHORT_B = b"\0\0\1\x01\xa8" + bytes(range(2, 22))


def _feed(spare: Any, n: int, first: int = 0, change: float = 0.0, **looks: bool) -> list[bool]:
    """What is said of so many short B-frames, each shown with that change when it is decoded."""
    said = []
    for pts in range(first, first + n):
        said.append(spare(_Packet(pts, SHORT_B)))
        if not said[-1]:
            spare.saw(_Shown(pts, change, **looks))
    return said


def test_the_rule_proves_itself_on_each_file() -> None:
    """Nothing is spared before 24 short frames changed nothing; then all but each 32nd."""
    said = _feed(Spare(DecodeLog()), 400)
    assert not any(said[:PROOFS]) and sum(said[100:]) == pytest.approx(300 * (1 - 1 / CHECK_EVERY), abs=1)


def test_a_change_in_a_short_packet_ends_the_sparing() -> None:
    """A short frame that changes the picture takes all proofs away, and four times as many are needed again."""
    spare = Spare(DecodeLog())
    _feed(spare, 100)
    spare(_Packet(100, SHORT_B[:4] + b"\x80"))  # a P-frame is decoded
    spare.saw(_Shown(100, 3.0))
    said = _feed(spare, 200, 101)
    assert not any(said[: 4 * PROOFS]) and any(said[4 * PROOFS :])


@pytest.mark.parametrize("against", [{"change": 0.5}, {"change": float("nan")}, {"interlaced": True}, {"flat": True}])
def test_what_is_no_proof(against: dict[str, Any]) -> None:
    """A change, one that is not known, fields of two times and a picture of one level never lead to a frame spared."""
    assert not any(_feed(Spare(DecodeLog()), 200, **against))


@pytest.mark.parametrize("damage", ["n_errors", "n_corrupt"])
def test_after_damage_all_is_decoded(damage: str) -> None:
    """Once a packet broke or a frame was made up, damage may be in any short packet: none is spared any more."""
    log = DecodeLog()
    spare = Spare(log)
    assert any(_feed(spare, 100))
    setattr(log, damage, 1)
    assert not any(_feed(spare, 100, 100))


def test_what_is_shown_before_a_long_packet_is_decoded() -> None:
    """Pictures that were decoded before a B-frame and are shown after it are mixed in it: where one came in a long packet, the B-frame is
    decoded, however many short packets lie between; what is shown after that picture may be spared again."""
    spare = Spare(DecodeLog())
    _feed(spare, 100)
    assert not spare(_Packet(120, SHORT_B[:5] + bytes(5000)))
    assert not any(_feed(spare, 20, 100)) and any(_feed(spare, 20, 121))
    assert not spare(_Packet(141, SHORT_B, discard=True)), "a frame that is not shown is no frame to repeat"


@pytest.mark.parametrize(
    ("units", "lone"),
    [
        ([b"\x01\xa0"], True),  # slice_type 1
        ([b"\x01\x9c"], True),  # slice_type 6
        ([b"\x09\xf0", b"\x06\x05\x01\x80", b"\x01\xa0\x11"], True),  # a delimiter and supplemental information in front
        ([b"\x41\xa0"], False),  # other frames refer to it
        ([b"\x01\xc0"], False),  # a P-slice
        ([b"\x01\x50"], False),  # does not begin with the first block
        ([b"\x01\xa0", b"\x01\x4a", b"\x01\x3e"], True),  # three slices
        ([b"\x01\xa0", b"\x01\xa0"], False),  # two fields
        ([b"\x01\xa0", b"\x41\x4a"], False),
        ([b"\x67\x64\x00", b"\x01\xa0"], False),  # new parameters
        ([b"\x02\xa0"], False),  # a partition
        ([b"\x01"], False),
        ([], False),
    ],
)
def test_which_packets_are_b_frames_that_nothing_refers_to(units: list[bytes], lone: bool) -> None:
    """Only whole B-frames without followers, in both ways to part units."""
    for length_bytes in (1, 2, 4):
        assert is_lone_b_frame(b"".join(len(u).to_bytes(length_bytes, "big") + u for u in units), length_bytes) is lone
    assert is_lone_b_frame(b"".join(b"\0\0\0\1" + u for u in units), 0) is lone


@given(st.binary(max_size=80), st.integers(0, 4))
def test_any_bytes_can_be_asked_about(data: bytes, length_bytes: int) -> None:
    """No packet raises, and with lengths the units are all of it or nothing."""
    is_lone_b_frame(data, length_bytes)
    units = units_of(data, length_bytes)
    assert all(units)
    assert not length_bytes or not units or sum(map(len, units)) + length_bytes * len(units) == len(data)


def test_of_a_talk_most_frames_are_spared() -> None:
    """A real talk of slides: all 3,678 frames at their own times, more than half of them spared."""
    path = MEDIA / "video" / "slides_laion_1080p.mp4"
    with av.open(str(path)) as container:
        stamps = sorted(int(p.pts * p.time_base * 1_000_000 + 0.5) for p in container.demux(video=0) if p.pts is not None)
    log = DecodeLog()
    spare, small, seen = Spare(log), SmallFrames(1920, 1080), []
    for source, pts_us in decode.decode(str(path), CFG, spare=spare, log=log):
        spare.saw(small(source, pts_us))
        seen.append(pts_us)
    assert np.abs(np.array(seen) - stamps).max() <= 1 and log.n_spared > 0.6 * log.n_frames


@pytest.mark.parametrize("b_frames", [3, 8, 16])
def test_what_passes_between_slides_is_seen_at_its_own_frame(tmp_path: Path, b_frames: int) -> None:
    """Slides, and a card that lies on one of them for four frames: each change is seen at its own frame although frames between are
    spared, however many B-frames lie between two others."""
    frames = list(_slides(600, 120))
    for n in range(300, 304):
        frames[n] = frames[n].copy()
        frames[n][40:100, 60:160] = 235
    options = X264 | {"x264-params": f"bframes={b_frames}:b-adapt=1:keyint=1000:sliced-threads=0:threads=1"}
    path, log = write_video(tmp_path / "a.mp4", frames, options=options), DecodeLog()
    facts = with_facts(Asset(asset_id="", asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=str(path)), probe(str(path), CFG))
    shots = next(t for t in watch(str(path), facts, [ShotObserver()], CFG, Spare(log)) if t.name == "shots")
    assert log.n_spared > 60
    scanned = scan_asset(facts, str(path), ScanConfig()).asset
    assert (scanned.n_frames, scanned.n_spared) == (600, log.n_spared), "the manifest says how many"
    assert np.flatnonzero(np.nan_to_num(shots["change"]) > 3).tolist() == [120, 240, 300, 304, 360, 480]
