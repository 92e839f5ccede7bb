"""A file's pictures are found in a collection: with times in both, whatever else is there, and never where they are not."""

from typing import Any

import numpy as np
import pyarrow as pa

from curation.copy_search import FileCopies, FileSeries, series_of
from curation.duplicates import DuplicatesConfig
from curation.embeddings import Descriptor
from curation.subclips import Series, SubclipsConfig, series
from curation.tracks import Recorder

STEP_US = 125_000


def film(seed: int, n: int) -> np.ndarray:
    """Bits [n, 256] of pictures that have nothing in common."""
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 2, (n, 256), dtype=np.uint8)


def noisy(bits: np.ndarray, n: int) -> np.ndarray:
    """The bits with n flipped in each picture."""
    out = bits.copy()
    for i, row in enumerate(out):
        row[np.random.Generator(np.random.Philox(key=i)).choice(256, n, replace=False)] ^= 1
    return out


def packed(bits: np.ndarray) -> list[bytes]:
    return [h.tobytes() for h in np.packbits(bits, axis=1)]


def at(bits: np.ndarray, start_us: int = 0) -> Series:
    return series([start_us + i * STEP_US for i in range(len(bits))], packed(bits))


def test_a_part_is_found_with_times_and_distance() -> None:
    """Pictures 40 to 79 of a film, 10 bits apart and behind others, have both spans and that distance; another film has none."""
    film_of_file = film(1, 120)
    looked_for = FileSeries(at(film_of_file, 5_000_000), SubclipsConfig())
    (shown,) = looked_for.spans(at(np.concatenate([film(2, 16), noisy(film_of_file[40:80], 10)])))
    assert (shown.start_us, shown.end_us) == (5_000_000 + 40 * STEP_US, 5_000_000 + 79 * STEP_US)
    assert (shown.there_start_us, shown.there_end_us) == (16 * STEP_US, 55 * STEP_US)
    assert (shown.distance, shown.matched) == (10, 1.0)
    assert looked_for.spans(at(film(3, 200))) == []
    assert looked_for.spans(at(film(3, 0))) == []


def test_flat_pictures_are_not_looked_for() -> None:
    """Of a series only pictures of quality 50 and more count; a file without a track has an empty series."""
    recorder = Recorder("hashes", ("quality",))
    for i, value in enumerate(np.packbits(film(1, 4), axis=1)):
        recorder.add(i * STEP_US, (49.0, 50.0, 0.0, 100.0)[i], picture=value.reshape(4, 8))
    found = series_of(recorder.track())
    assert found.pts_us.tolist() == [STEP_US, 3 * STEP_US] and found.words.shape == (2, 4)
    assert len(series_of(None).pts_us) == 0


def described(bits: np.ndarray, own: bool, frames: list[int]) -> dict[str, Any]:
    n = len(bits)
    return {"pdq": packed(bits), "pdq_own": [own] * n, "pdq_frame": frames, "pdq_pts_us": [f * 1_000_000 for f in frames]}


def test_an_edited_copy_is_judged_as_duplicates_are() -> None:
    """A clip whose own hashes are the file's probes is a copy with its times and nearest distance; two probes match nothing, nor does a clip of
    which fewer than 30 % of the seconds match."""
    file, probes = film(1, 10), film(2, 10)
    mine = Descriptor(
        clip_id="",
        pdq=packed(np.concatenate([file, probes])),
        pdq_own=[True] * 10 + [False] * 10,
        pdq_frame=[*range(10), *range(10)],
        pdq_pts_us=[i * 1_000_000 for i in [*range(10), *range(10)]],
    )
    clips = {
        "edited": described(noisy(probes[4:8], 7), True, [0, 1, 2, 3]),
        "probes": described(probes[4:8], False, [0, 1, 2, 3]),
        "little": described(np.concatenate([file[:1], film(3, 9)]), True, list(range(10))),
        "other": described(film(4, 5), True, list(range(5))),
        "nothing": {"pdq": [], "pdq_own": [], "pdq_frame": [], "pdq_pts_us": []},
    }
    types = {"pdq": pa.binary(), "pdq_own": pa.bool_(), "pdq_frame": pa.int32(), "pdq_pts_us": pa.int64()}
    columns = {n: pa.array([c[n] for c in clips.values()], pa.list_(t)) for n, t in types.items()}
    found = dict(FileCopies(mine, DuplicatesConfig()).near(pa.table({"clip_id": list(clips), **columns})))
    assert set(found) == {"edited"}
    shown = found["edited"]
    assert (shown.start_us, shown.end_us, shown.there_start_us, shown.there_end_us) == (4_000_000, 7_000_000, 0, 3_000_000)
    assert (shown.distance, shown.matched) == (7, 1.0)
