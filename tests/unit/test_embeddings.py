"""Descriptors: copies stay near, different pictures stay far, flat ones say so."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.embeddings import (
    CONCEPT_FLOATS,
    PDQ_BYTES,
    DescribeClips,
    Descriptor,
    DescriptorConfig,
    centre_crop,
    concept_vector,
    hamming,
    hash_crops,
    pdq_hash,
)
from curation.keyframes import KeyFrame, Picture, encode_jpeg
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
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(encode_jpeg(picture, 30))))


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
}


def _hashes(picture: Picture) -> list[bytes]:
    return [value for _, value in hash_crops(picture, DescriptorConfig())[1]]


def _distance(a: list[bytes], b: list[bytes]) -> int:
    return min(hamming(x, y) for x in a for y in b)


def _case(*pictures: Picture, kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    clip = Clip(clip_id="c", asset_id="a", kind=kind, start_us=0, end_us=4_000_000)
    return clip, [KeyFrame(clip_id="c", index=i, pts_us=i, width=1, height=1, jpeg=encode_jpeg(p)) for i, p in enumerate(pictures)]


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


def test_different_photographs_are_far_apart(photographs: dict[str, Picture]) -> None:
    """No two photographs come within twice the match distance, over all pairs of crops."""
    hashes = {name: _hashes(p) for name, p in photographs.items()}
    assert min(_distance(hashes[a], hashes[b]) for a, b in combinations(hashes, 2)) > 2 * MATCH_BITS


def test_descriptor_lists_run_in_step_and_flat_frames_are_told_apart(photographs: dict[str, Picture]) -> None:
    """Every hash has its frame and crop, the full frame comes first, and a flat frame has a quality but no hash."""
    flat = np.full((288, 512, 3), 90, np.uint8)
    found = DescribeClips(DescriptorConfig())([_case(photographs["coffee.png"], flat, photographs["chelsea.png"])])[0]
    assert len(found.pdq) == len(found.pdq_frame) == len(found.pdq_crop) and all(len(h) == PDQ_BYTES for h in found.pdq)
    assert sorted(set(found.pdq_frame)) == [0, 2] and len(found.pdq_quality) == 3
    assert found.pdq_quality[1] < DescriptorConfig().min_quality <= min(found.pdq_quality[0], found.pdq_quality[2])
    assert [found.pdq_crop[found.pdq_frame.index(f)] for f in (0, 2)] == [0, 0]
    assert found.pdq[0] == pdq_hash(decoded(photographs["coffee.png"]))[0]


def decoded(picture: Picture) -> Picture:
    from curation.keyframes import decode_jpeg

    return decode_jpeg(encode_jpeg(picture))


def test_broken_frames_and_sound(photographs: dict[str, Picture]) -> None:
    """A broken frame is an error without hashes; sound has an empty descriptor without an error."""
    clip, frames = _case(photographs["coffee.png"])
    broken = KeyFrame(clip_id="c", index=1, pts_us=0, width=1, height=1, jpeg=b"\xff\xd8junk")
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


def test_crops_must_begin_with_the_full_frame() -> None:
    """A config whose first crop is not the full frame is refused."""
    with pytest.raises(ValueError, match=r"full frame \(1\.0\) first"):
        DescribeClips(DescriptorConfig(crops=(0.9, 1.0)))
