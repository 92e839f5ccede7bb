"""Spans of one film found in another cut of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.hash_observer import HashObserver, hashes_of
from curation.observe import Frame
from curation.scan import tracks_of
from curation.subclips import Series, SubclipsConfig, find_subclips, series
from curation.tracks import Track, by_name

CFG = SubclipsConfig()
STEP_US = 500_000


def film(seed: int, n: int) -> list[bytes]:
    """n hashes of pictures that have nothing in common."""
    return [row.tobytes() for row in np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, (n, 32), dtype=np.uint8)]


def noisy(hashes: list[bytes], seed: int) -> list[bytes]:
    """The hashes with up to 24 bits flipped."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    out = []
    for h in hashes:
        bits = np.unpackbits(np.frombuffer(h, np.uint8))
        bits[rng.choice(256, rng.integers(0, 25), replace=False)] ^= 1
        out.append(np.packbits(bits).tobytes())
    return out


def at(hashes: list[bytes], start_us: int = 0, speed: float = 1.0) -> Series:
    return series([start_us + round(i * STEP_US / speed) for i in range(len(hashes))], hashes)


def test_an_extract_is_found_where_it_was_taken() -> None:
    """Pictures 20 to 39 of a, in b after 8 others, are found with both spans, their offset and a share of 1; nothing else is."""
    a, other = film(1, 60), film(2, 30)
    found = find_subclips(at(a), at(other[:8] + noisy(a[20:40], 3) + other[8:], 7_000_000), CFG)
    assert len(found) == 1
    f = found[0]
    assert (f.start_a_us, f.end_a_us) == (20 * STEP_US, 39 * STEP_US)
    assert (f.start_b_us, f.end_b_us) == (7_000_000 + 8 * STEP_US, 7_000_000 + 27 * STEP_US)
    assert (f.offset_us, f.matched) == (7_000_000 - 12 * STEP_US, 1.0)


def test_another_cut_gives_its_pieces() -> None:
    """A film whose two scenes change places gives two spans, the longer first."""
    a = film(1, 30)
    found = find_subclips(at(a), at(a[18:] + film(2, 5) + a[:18]), CFG)
    assert [(f.start_a_us // STEP_US, f.end_a_us // STEP_US, f.start_b_us // STEP_US) for f in found] == [(0, 17, 17), (18, 29, 0)]


@pytest.mark.parametrize("speed", [0.95, 1.05])
def test_speed_is_followed(speed: float) -> None:
    """A minute at 5 % more or less speed is one span although its offset drifts by three seconds."""
    a = film(1, 120)
    found = find_subclips(at(a), at(noisy(a, 2), 0, speed), CFG)
    assert len(found) == 1 and found[0].end_a_us == 119 * STEP_US and found[0].matched == 1.0


def test_a_still_scene_keeps_its_offset() -> None:
    """A scene of one still picture, between moving ones, matches itself everywhere; the whole film is still one span at offset 0."""
    a = film(1, 10) + film(3, 1) * 20 + film(2, 10)
    found = find_subclips(at(a), at(noisy(a, 5)), CFG)
    assert len(found) == 1 and (found[0].offset_us, found[0].end_b_us) == (0, 39 * STEP_US)


def test_a_series_has_the_whole_pictures_in_order() -> None:
    """Of a descriptor's hashes those of whole pictures are taken, with and without borders and from the scan, in order of time."""
    hashes = film(1, 5)
    found = series([40, 10, 20, 30, 0], hashes, [0, 1, 100, 104, 200])
    assert found.pts_us.tolist() == [0, 20, 40]
    assert found.words.tobytes() == hashes[4] + hashes[2] + hashes[0]


def test_nothing_in_common() -> None:
    """Other films, one picture in common, and empty series give no span; settings that cannot be are refused."""
    a, b = film(1, 20), film(2, 20)
    assert find_subclips(at(a), at(b), CFG) == find_subclips(at(a), at([*b, a[5]]), CFG) == find_subclips(at([]), at(a), CFG) == []
    bad: dict[str, Any] = {"drift": 1.0}
    with pytest.raises(ValueError, match="subclips: expected"):
        SubclipsConfig(**bad)


@given(st.integers(0, 20), st.integers(6, 20), st.integers(0, 10))
@settings(max_examples=20, deadline=None)
def test_a_and_b_may_change_places(first: int, length: int, before: int) -> None:
    """What is found of a in b is found of b in a, spans exchanged and offset negated."""
    a = film(1, 40)
    b = film(2, before) + noisy(a[first : first + length], 3)
    there, back = find_subclips(at(a), at(b), CFG), find_subclips(at(b), at(a), CFG)
    assert [(f.start_a_us, f.end_a_us, f.start_b_us, f.offset_us) for f in there] == [
        (f.start_b_us, f.end_b_us, f.start_a_us, -f.offset_us) for f in back
    ]
    assert there[0].end_a_us - there[0].start_a_us == (min(40, first + length) - first - 1) * STEP_US


@pytest.mark.parametrize(
    ("whole", "extract", "first_frame"),
    [("chrome_ad_30s.webm", "chrome_ad_first4s.mp4", 91), ("google_paris_slides_35s.mp4", "google_paris_tiny_4s.mp4", 276)],
)
def test_a_real_extract_is_found_where_it_was_taken(media: Path, whole: str, extract: str, first_frame: int) -> None:
    """An extract in another size, codec or rate lies where the labels say, within a third of a second, by the scan's hashes."""
    a, b = (scanned(media / "video" / name) for name in (whole, extract))
    found = find_subclips(a[0], b[0], CFG)[0]
    assert found.offset_us == pytest.approx(b[1][0] - a[1][first_frame], abs=333_000) and found.matched > 0.3


def scanned(path: Path) -> tuple[Series, list[int]]:
    """The scan's hashes of a video, and the times of its frames."""
    times = TimesObserver()
    track = by_name(tracks_of(str(path), [HashObserver(), times]))["hashes"]
    return series(track.pts_us.tolist(), hashes_of(track)), times.pts_us


class TimesObserver:
    def __init__(self) -> None:
        self.pts_us: list[int] = []

    def push(self, frame: Frame) -> None:
        self.pts_us.append(frame.pts_us)

    def finish(self) -> list[Track]:
        return []
