"""What a step needs of a clip beside its own pixels: a picture of its person, and what it was edited from or is to be marked.

reference    (3, R, R), 0 to 255: the face crop `<clip_id>.face.jpg`; where there is none, a square of the clip itself at a time and place
             of its own. A share of the references are those of another clip of the same person, so that copying does not help
source       (3, T, H, W): the member `<clip_id>.source.mp4` or `.source.jpg`, in the window and crop of the clip; has_source 1 or 0
mask         (1, H, W): the member `<clip_id>.mask.jpg` in the clip's crop, above 127 where the clip is to be marked; 0 where there is none
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from training import keyed
from training.data.decode import Pixels, decode_image, decode_video
from training.data.index import Sample
from training.data.shapes import Shape
from training.errors import SampleError

Arrays = dict[str, NDArray[np.uint8]]
Key = tuple[object, ...]
Read = Callable[[Sample], bytes]
Decode = Callable[[bytes, Sample], list[Pixels]]

_ZOOM = (1.0, 1.25)
"""How much larger than the reference the shorter side is of a clip that its square is cut from. A face crop shows the same face every
time; at twice the side two squares of one clip have little in common, and a generator learns to look at neither."""


class Partners:
    """Which other clips show the person of a clip: pairs by identity, or, without any, clips of one asset or duplicate group."""

    def __init__(self, samples: Sequence[Sample], pairs: Mapping[str, Sequence[str]] | None = None) -> None:
        self._samples, self._pairs = {s.clip_id: s for s in samples}, pairs
        self._groups: dict[str, list[str]] = {}
        for sample in samples if pairs is None else ():
            self._groups.setdefault(sample.group, []).append(sample.clip_id)

    def of(self, sample: Sample) -> list[Sample]:
        """The others, in the order of their ids; of pairs only those that are among the samples."""
        known = self._groups.get(sample.group, ()) if self._pairs is None else self._pairs.get(sample.clip_id, ())
        return [self._samples[c] for c in sorted(known) if c != sample.clip_id and c in self._samples]


def load_reference(
    read: Read, sample: Sample, partners: Partners, side_px: int, cross_share: float, key: Key
) -> tuple[NDArray[np.uint8], str]:
    """The picture of the clip's person, (3, R, R), and the id of the other clip that it is of, empty where it is the clip's own. A partner
    that cannot be read leaves the clip with its own."""
    others = partners.of(sample) if cross_share and keyed.stream(*key, "cross").random() < cross_share else []
    if others:
        other = others[keyed.integer(0, len(others), *key, "partner")]
        try:
            return _picture(read, other, side_px, (*key, "partner", other.clip_id)), other.clip_id
        except SampleError:  # broken or taken down since
            pass
    return _picture(read, sample, side_px, key), ""


def load_edit(read: Read, decode: Decode, sample: Sample, shape: Shape) -> Arrays:
    """`source`, `has_source` and, of an image, `mask` of the clip; `decode` gives the frames that the clip's own window and crop take."""
    frames, area = (shape.n_frames, shape.height, shape.width), (shape.height, shape.width)
    made: Arrays = {"has_source": np.zeros(1, np.uint8), "source": np.zeros((3, *frames), np.uint8)}
    if (source := sample.other("source.mp4" if sample.kind == "video" else "source.jpg")) is not None:
        made = {"has_source": np.ones(1, np.uint8), "source": np.stack(decode(read(source), source)).transpose(3, 0, 1, 2)}
    if sample.kind == "image":
        mask = sample.other("mask.jpg")
        made["mask"] = np.zeros((1, *area), np.uint8) if mask is None else decode(read(mask), mask)[0][None, :, :, 1]
    return made


def _picture(read: Read, sample: Sample, side_px: int, key: Key) -> NDArray[np.uint8]:
    where = f"{sample.shard_path} clip {sample.clip_id}"
    if (face := sample.other("face.jpg")) is not None:
        pixels = decode_image(read(face), where, (side_px, side_px))[0]
        y, x = ((n - side_px) // 2 for n in pixels.shape[:2])
        return _channels_first(pixels[y : y + side_px, x : x + side_px])
    pixels = _frame(read(sample), sample, where, round(side_px * keyed.stream(*key, "zoom").uniform(*_ZOOM)), key)
    y, x = (keyed.integer(0, n - side_px + 1, *key, axis) for n, axis in zip(pixels.shape[:2], ("y", "x"), strict=True))
    return _channels_first(pixels[y : y + side_px, x : x + side_px])


def _frame(data: bytes, sample: Sample, where: str, short_px: int, key: Key) -> Pixels:
    """One picture of the clip at a time by key, its shorter side as long."""
    if sample.kind == "image":
        return decode_image(data, where, short_px)[0]
    if not sample.fps_num or not sample.fps_den or not sample.n_frames:
        raise SampleError(where, "decode", "a frame rate and a frame count in the manifest", "none")
    number = keyed.integer(0, sample.n_frames, *key, "time")
    return decode_video(data, where, number, 1, Fraction(sample.fps_num, sample.fps_den), short_px)[0]


def _channels_first(pixels_HW3: Pixels) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels_HW3.transpose(2, 0, 1))
