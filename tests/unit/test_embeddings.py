"""Descriptors: copies stay near, different pictures stay far, flat ones say so."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.embeddings import (
    CONCEPT_FLOATS,
    SERIES,
    VECTORS,
    DescribeClips,
    Descriptor,
    concept_vector,
)
from curation.hash_observer import HashObserver, hashes_of
from curation.keyframes import KeyFrame, Picture, decode_jpeg, encode_jpeg
from curation.observe import Frame
from curation.orientation import Orientation
from curation.pdq import PDQ_BYTES, Part, cells, frequencies, hamming, hash_plane, hashes, reference_hash, turned
from curation.picture_hashes import MIDDLE, UNBORDERED, WHOLE, DescriptorConfig, Hash, border_part, hash_picture
from manifests.records import Clip

NAMES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "rocket.jpg",
    "ihc.png",
)
MATCH_BITS = 31


def _photograph(name: str) -> Picture:
    import skimage
    from PIL import Image

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        rgb = image.convert("RGB")
    return _fit(np.asarray(rgb))


def _fit(picture: Picture, long_px: int = 512) -> Picture:
    from PIL import Image

    scale = long_px / max(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _recode(picture: Picture) -> Picture:
    return decode_jpeg(encode_jpeg(picture, 30))


def _cut(picture: Picture, top: float, bottom: float, left: float, right: float) -> Picture:
    height, width = picture.shape[:2]
    return picture[round(height * top) : height - round(height * bottom), round(width * left) : width - round(width * right)]


def centre_crop(picture: Picture, share: float) -> Picture:
    return _cut(picture, *[(1 - share) / 2] * 4)


def _logo(picture: Picture) -> Picture:
    marked, (height, width) = picture.copy(), picture.shape[:2]
    marked[int(0.05 * height) : int(0.14 * height), int(0.87 * width) : int(0.96 * width)] = (240, 240, 240)
    return marked


EDITS: dict[str, Callable[[Picture], Picture]] = {
    "re-encoded": _recode,
    "half size": lambda p: _fit(p, 256),
    "logo": _logo,
    "crop to 95 %": lambda p: _fit(centre_crop(p, 0.95)),
    "crop to 90 %": lambda p: _fit(centre_crop(p, 0.90)),
    "crop 10 % at the left": lambda p: _cut(p, 0, 0, 0.1, 0),
    "crop 10 % at a corner": lambda p: _cut(p, 0.1, 0, 0, 0.1),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "turned": lambda p: np.ascontiguousarray(np.rot90(p)),
    "grey": lambda p: np.repeat(p.mean(axis=2, keepdims=True).astype(np.uint8), 3, 2),
}
NO_BORDERS: Part = (0.0, 0.0, 0.0, 0.0)


def _hashes(picture: Picture, borders: Part = NO_BORDERS) -> list[Hash]:
    return hash_picture(picture, borders, DescriptorConfig())[1]


def _distance(a: list[Hash], b: list[Hash]) -> int:
    """The smallest distance of hashes that are not both probes."""
    return min(hamming(x.value, y.value) for x in a for y in b if x.own or y.own)


def _case(*pictures: Picture, kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    clip = Clip(clip_id="c", asset_id="a", kind=kind, start_us=0, end_us=4_000_000)
    return clip, [KeyFrame(asset_id="c", index=i, pts_us=i, width=1, height=1, jpeg=encode_jpeg(p)) for i, p in enumerate(pictures)]


@pytest.fixture(scope="module")
def photographs() -> dict[str, Picture]:
    return {name: _photograph(name) for name in NAMES}


@pytest.mark.parametrize("edit", EDITS)
def test_copies_are_within_31_bits(edit: str, photographs: dict[str, Picture]) -> None:
    """Each copy with one edit, of each photograph, has a hash within 31 bits of one of the original's."""
    far = {name: d for name, p in photographs.items() if (d := _distance(_hashes(p), _hashes(EDITS[edit](p)))) > MATCH_BITS}
    assert far == {}


def test_copies_with_three_edits_are_nearly_all_found(photographs: dict[str, Picture]) -> None:
    """Cropped to 95 %, marked and re-encoded at once: nine of ten are within 31 bits (the rocket in front of a plain sky is 40 away)."""
    copies = {name: _recode(_logo(_fit(centre_crop(p, 0.95)))) for name, p in photographs.items()}
    far = {name for name, p in photographs.items() if _distance(_hashes(p), _hashes(copies[name])) > MATCH_BITS}
    assert far <= {"rocket.jpg"}


def test_a_bordered_copy_is_found(photographs: dict[str, Picture]) -> None:
    """With its borders known, a copy with bars equals the original, and one cropped to 4:3 is one of its probes."""
    picture = photographs["coffee.png"]
    barred = np.pad(picture, ((0, 0), (90, 60), (0, 0)))
    width = barred.shape[1]
    for measured in ((90, 60), (81, 68)):  # also when measured 2 % off
        known = _hashes(barred, (0.0, 0.0, measured[0] / width, measured[1] / width))
        assert _distance(_hashes(picture), _hashes(barred)) > MATCH_BITS >= 4 * _distance(_hashes(picture), known)
    assert {h.crop for h in known if h.own} == {WHOLE, MIDDLE, UNBORDERED, UNBORDERED + MIDDLE}
    wide = _fit(picture[:, :, :])[: 512 * 9 // 16]
    keep = wide.shape[0] * 4 / 3 / wide.shape[1]
    assert _distance(_hashes(wide), _hashes(_cut(wide, 0, 0, (1 - keep) / 2, (1 - keep) / 2))) <= MATCH_BITS


def test_borders_become_shares() -> None:
    """Border columns in px become shares of the clip's size; without a size, or where they leave nothing, there are none."""
    clip = Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=1, width=640, height=480, border_top=48, border_right=64)
    assert border_part(clip) == (0.1, 0.0, 0.0, 0.1)
    assert border_part(Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=1, border_top=4)) == NO_BORDERS
    full = Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=1, width=64, height=48, border_top=24, border_bottom=24)
    assert border_part(full) == NO_BORDERS


def test_the_reference_is_pdq(photographs: dict[str, Picture]) -> None:
    """`reference_hash` is the canonical hash within 6 bits and its quality to the unit, at several sizes, as Meta's code gives it."""
    import pdqhash

    for picture in photographs.values():
        for size in (512, 300):
            shown = _fit(picture, size)
            bits, quality = pdqhash.compute(shown)
            found, seen = reference_hash(shown)
            assert hamming(np.packbits(np.asarray(bits, np.uint8)).tobytes(), found) <= 6 and seen == quality


def test_hashes_do_not_depend_on_size_and_turn_with_the_picture(photographs: dict[str, Picture]) -> None:
    """The hash of half a picture's size, scaled by other means, is within 12 bits; the seven turned hashes are those of the turned pictures."""
    for picture in photographs.values():
        luma = picture.mean(axis=2).astype(np.uint8)
        assert hamming(hash_plane(luma)[0], hash_plane(_fit(picture, 256).mean(axis=2).astype(np.uint8))[0]) <= 12
        a = hashes(turned(frequencies(cells(luma)[None])[0]))
        lying = (luma[:, ::-1], luma[::-1], luma[::-1, ::-1], luma.T, luma.T[::-1], luma.T[:, ::-1], luma.T[::-1, ::-1])
        found = [min(hamming(hash_plane(np.ascontiguousarray(p))[0], h) for h in a) for p in lying]
        assert max(found) <= 2


def test_the_scan_hashes_eight_times_a_second(photographs: dict[str, Picture]) -> None:
    """The observer hashes at most each 120 ms; the clip takes those of its span, one a second where the picture stands."""
    luma = (16 + photographs["coffee.png"].mean(axis=2) * 219 / 255).astype(np.uint8)
    observer = HashObserver()
    for i in range(100):
        observer.push(Frame(i * 40_000, luma, luma, luma, None, Orientation()))  # type: ignore[arg-type]
    track = observer.finish()[0]
    assert len(track) == 34 and len(hashes_of(track)[0]) == PDQ_BYTES and np.diff(track.pts_us).min() == 120_000
    assert track["quality"].min() == hash_plane(luma, 219)[1] > 50
    clip, frames = _case(photographs["coffee.png"])
    found = DescribeClips(DescriptorConfig())([(clip, frames, track.between(0, 2_500_000))])[0]
    series = [i for i, crop in enumerate(found.pdq_crop) if crop == SERIES]
    assert [found.pdq_frame[i] for i in series] == [0, 1, 2] and all(found.pdq_own[i] for i in series)
    assert found.pdq_pts_us == sorted(found.pdq_pts_us)


def test_different_photographs_are_far_apart(photographs: dict[str, Picture]) -> None:
    """No two photographs come within twice the match distance, over all pairs of crops."""
    hashes = {name: _hashes(p) for name, p in photographs.items()}
    assert min(_distance(hashes[a], hashes[b]) for a, b in combinations(hashes, 2)) > 2 * MATCH_BITS


def test_descriptor_lists_run_in_step_and_flat_frames_are_told_apart(photographs: dict[str, Picture]) -> None:
    """Every hash has its frame and crop, the full frame comes first, and a flat frame has a quality but no hash."""
    flat = np.full((288, 512, 3), 90, np.uint8)
    found = DescribeClips(DescriptorConfig())([_case(photographs["coffee.png"], flat, photographs["chelsea.png"])])[0]
    lists = (found.pdq_frame, found.pdq_crop, found.pdq_own, found.pdq_pts_us)
    assert all(len(n) == len(found.pdq) for n in lists) and all(len(h) == PDQ_BYTES for h in found.pdq)
    assert sorted(set(found.pdq_pts_us)) == [0, 2] and len(found.pdq_quality) == 3 and len(found.pdq_reference) == 2
    assert found.pdq_quality[1] < DescriptorConfig().min_quality <= min(found.pdq_quality[0], found.pdq_quality[2])
    assert [found.pdq_crop[found.pdq_pts_us.index(t)] for t in (0, 2)] == [WHOLE, WHOLE]
    assert {f.name for f in VECTORS} <= set(Descriptor.__slots__)


def test_black_and_plain_pictures_have_no_hash() -> None:
    """Black, grey with noise and a soft gradient have no hash, so they never match anything."""
    noise = np.random.Generator(np.random.Philox(key=3)).normal(0, 2, (288, 512, 3))
    gradient = np.repeat(np.tile(np.linspace(20, 120, 512), (288, 1))[..., None], 3, 2)
    for plain in (np.zeros((288, 512, 3)), 90 + noise, gradient + noise):
        assert _hashes(np.clip(plain, 0, 255).astype(np.uint8)) == []


def test_broken_frames_and_sound(photographs: dict[str, Picture]) -> None:
    """A broken frame is an error without hashes; sound has an empty descriptor without an error."""
    clip, frames = _case(photographs["coffee.png"])
    broken = KeyFrame(asset_id="c", index=1, pts_us=0, width=1, height=1, jpeg=b"\xff\xd8junk")
    bad, sound = DescribeClips(DescriptorConfig())([(clip, [*frames, broken]), _case(kind="audio")])
    assert (bad.error_code, bad.pdq, bad.concept) == ("bad_keyframe", [], [])
    assert sound == Descriptor(clip_id="c")


def test_concept_vectors_have_length_one_and_order_by_likeness(photographs: dict[str, Picture]) -> None:
    """The vector has 96 floats of length 1, does not depend on the order of frames, and a copy is nearer by 0.1 than any other."""
    vectors = {name: concept_vector([p]) for name, p in photographs.items()}
    assert all(v.shape == (CONCEPT_FLOATS,) and np.linalg.norm(v) == pytest.approx(1) for v in vectors.values())
    a, b = photographs["coffee.png"], photographs["grass.png"]
    assert np.allclose(concept_vector([a, b]), concept_vector([b, a]))
    for name, picture in photographs.items():
        near = vectors[name] @ concept_vector([_recode(_fit(centre_crop(picture, 0.95)))])
        assert near > 0.1 + max(vectors[name] @ v for other, v in vectors.items() if other != name)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_plain_colours_never_give_nan(red: int, green: int, blue: int) -> None:
    """A picture of one colour has a finite vector of length 1 and equals itself at any size."""
    plain = np.full((20, 30, 3), (red, green, blue), np.uint8)
    vector = concept_vector([plain])
    assert np.isfinite(vector).all() and np.linalg.norm(vector) == pytest.approx(1)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_hamming_is_a_distance(a: bytes, b: bytes, c: bytes) -> None:
    """Hamming distance is symmetric, zero only for equals, and obeys the triangle inequality."""
    assert hamming(a, b) == hamming(b, a) and (hamming(a, b) == 0) == (a == b)
    assert hamming(a, c) <= hamming(a, b) + hamming(b, c) <= 512


@pytest.mark.parametrize("bad", [{"centre_crops": (1.0,)}, {"side_crops": (0.6,)}, {"max_frames": 0}])
def test_impossible_crops_are_refused(bad: dict[str, Any]) -> None:
    """Crops that keep all or less than half of a side, and no frames, are refused."""
    with pytest.raises(ValueError, match="descriptors: expected"):
        DescriptorConfig(**bad)
