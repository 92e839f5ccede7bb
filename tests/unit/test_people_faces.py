"""Faces for personalisation: masked crops, pairs of one person, and where a shard gets them from."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import keyframes
from curation.adapters.face_detector import FaceDetectorConfig
from curation.adapters.face_identity import IdentityConfig
from curation.faces import agreeing, masked_face
from curation.keyframes import KeyFrame, decode_jpeg
from curation.people import PeopleConfig
from manifests.tables import write_parquet
from pipelines import people_faces, sharding
from pipelines.config import load
from pipelines.settings import CurateConfig
from pipelines.stage import Place
from pipelines.work_scrub import scrub_work


def picture() -> np.ndarray:
    """200 x 100 pixels of one colour on another's ground."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[...] = (10, 200, 30)
    pixels[30:70, 90:110] = (250, 20, 220)
    return pixels


def test_a_masked_face_shows_the_box_and_no_background() -> None:
    """A square 1.3 times the box's height, the face at its middle, grey at its corners; what is not in the picture is grey too; a box
    without pixels gives nothing; large faces are brought to the given size."""
    crop = masked_face(picture(), [0.45, 0.3, 0.1, 0.4])
    assert crop is not None and crop.shape == (52, 52, 3)
    assert crop[26, 26].tolist() == [250, 20, 220] and crop[0, 0].tolist() == crop[-1, 0].tolist() == [128] * 3
    assert (crop[:, :12] == 128).all() and 0 < int((crop == 128).all(2).mean() * 100) < 90
    edge = masked_face(picture(), [-0.05, 0.3, 0.1, 0.4])
    assert edge is not None and (edge[26, :20] == 128).all() and edge[26, 30].tolist() == [10, 200, 30]
    assert masked_face(picture(), [0.5, 0.5, 0.0, 0.1]) is None and masked_face(picture(), [2.0, 2.0, 0.1, 0.1]) is None
    large = masked_face(picture(), [0.1, 0.0, 0.5, 1.0], longest_px=64)
    assert large is not None and large.shape == (64, 64, 3)


def test_agreeing_vectors_are_pairs_above_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the block, each pair once, by its cosine; the threshold itself is not above it."""
    angles = np.radians([0, 50, 70, 180, 0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    expected = {(0, 1): 50, (0, 4): 0, (1, 2): 20, (1, 4): 50}
    for block in (1, 2, 1024):
        monkeypatch.setattr("curation.faces._BLOCK", block)
        found = agreeing(vectors, 0.5)
        assert {(i, j) for i, j, _ in found} == set(expected)
        assert all(c == pytest.approx(np.cos(np.radians(expected[i, j])), abs=1e-5) for i, j, c in found)
    assert agreeing(np.zeros((0, 2), np.float32), 0.5) == []


@dataclass
class Run:
    """As much of a curation as faces ask for: its settings, its place and what the people stage left."""

    config: Any
    place: Place
    people: pa.Table

    def outputs(self, stage: Any, inputs: pa.Table) -> pa.Table:
        """The rows of the people stage."""
        assert stage.name == "people"
        return self.people


def person(clip: str, vector: list[float], frames: list[int], model: str = "m") -> dict[str, Any]:
    """A row of the people stage: one face in each of these key frames."""
    boxes = [[0.45, 0.3, 0.1, 0.4 + 0.01 * i] for i in frames]
    return {"clip_id": clip, "identity_model": model, "identity": [vector] * len(frames), "identity_frame": frames, "identity_box": boxes}


def kept(*clips: tuple[str, str]) -> pa.Table:
    """Kept clips (id, set) of one asset, whose key frames lie in one part."""
    rows = [{"clip_id": c, "set_name": s, "keyframe_part": "work/scan/x/0.keyframes.parquet", "asset_id": "asset"} for c, s in clips]
    return pa.Table.from_pylist(rows)


def settings(tmp_path: Path) -> CurateConfig:
    """A curation that names faces."""
    people = PeopleConfig(faces=FaceDetectorConfig(weights="f.onnx"), identity=IdentityConfig(weights="i.onnx"))
    return dataclasses.replace(load(CurateConfig, "curate", "tiny"), people=people)


def test_clips_of_the_set_get_their_middle_face_and_their_pairs(tmp_path: Path) -> None:
    """Only clips of sets that want faces, and only where a face was named; pairs are of one network, in both directions; the crop is that of
    the key frame that is named; a key frame that is gone gives none."""
    place = Place(tmp_path)
    rows = [
        person("a", [1.0, 0.0], [3, 7, 9]),
        person("b", [0.9, 0.436], [1]),
        person("c", [0.0, 1.0], [2]),
        person("d", [1.0, 0.0], [4], "n"),
    ]
    run = Run(settings(tmp_path), place, pa.Table.from_pylist([*rows, {**person("e", [1.0, 0.0], []), "identity": None}]))
    found = sharding.faces_of(run, kept(*((c, "personal") for c in "abcde"), ("z", "low_res")))  # type: ignore[arg-type]
    assert set(found) == set("abcd") and found["a"]["face"]["index"] == 7 and found["a"]["face"]["box"] == [0.45, 0.3, 0.1, 0.47]
    pairs = pq.read_table(tmp_path / "work" / people_faces.PAIRS / "pairs.parquet").to_pylist()
    assert [(p["clip_id"], p["other_id"]) for p in pairs] == [("a", "b"), ("b", "a")] and pairs[0]["cosine"] == pytest.approx(0.9, abs=1e-3)
    frames = [KeyFrame(asset_id="asset", index=i, pts_us=i, width=200, height=100, jpeg=keyframes.encode_jpeg(picture())) for i in (3, 7)]
    write_parquet(tmp_path / "work/scan/x/0.keyframes.parquet", keyframes.to_table(frames))
    crop = people_faces.face_jpg(place, found["a"]["face"])
    assert crop is not None and np.abs(decode_jpeg(crop)[30, 30].astype(int) - [250, 20, 220]).max() < 20
    assert people_faces.face_jpg(place, found["b"]["face"]) is None
    assert people_faces.face_jpg(place, {**found["b"]["face"], "part": "nowhere.parquet"}) is None
    assert sharding.faces_of(run, kept(("z", "low_res"))) == {}  # type: ignore[arg-type]


def test_a_takedown_ends_the_pairs_of_a_clip(tmp_path: Path) -> None:
    """Rows of the clip are gone from the pairs, and training, which reads both directions, has no pair of it that it could use."""
    rows = [person(c, [1.0, 0.0], [0]) for c in "abc"]
    path = people_faces.write_pairs(Place(tmp_path), rows, 0.5)
    assert pq.read_table(path).num_rows == 6
    scrub_work(Place(tmp_path), {"asset"}, {"a"}, set())
    assert {r["clip_id"] for r in pq.read_table(path).to_pylist()} == {"b", "c"}
