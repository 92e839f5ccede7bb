"""Where the face is in a photo, by the detector that curation uses: what personalisation was trained on are faces alone."""

from pathlib import Path
from typing import TYPE_CHECKING

from curation.adapters.face_detector import FaceDetector, FaceDetectorConfig
from curation.adapters.weights import WeightsError

if TYPE_CHECKING:
    from training.portraits import Box


class PhotoError(ValueError):
    """No face is known in a photo; the message says why."""


def parse_face(text: str) -> "Box":
    """The box of `x,y,width,height`, whole px of the photo as it is shown; PhotoError when it is none."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise PhotoError(f"--face: expected x,y,width,height in whole px, found {text}") from error
    return x, y, width, height


def find_face(photo: Path, detector: FaceDetectorConfig) -> tuple["Box", int]:
    """(the largest face's box in whole px, how many faces there are); PhotoError when there is none, or the detector cannot be used."""
    from training.portraits import open_photo

    picture = open_photo(photo)
    try:
        found = FaceDetector(detector).find(picture)
    except WeightsError as error:
        raise PhotoError(str(error)) from error
    if not len(found):
        raise PhotoError(f"{photo}: expected a face, found none by {detector.weights}; say where it is with --face x,y,width,height")
    left, top, right, bottom = (round(float(v)) for v in found.boxes[found.largest()])
    return (left, top, max(1, right - left), max(1, bottom - top)), len(found)
