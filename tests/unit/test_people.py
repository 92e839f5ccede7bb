"""People: counts, shares and identity from small networks whose answers are painted into the pictures; clear errors where there are none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from curation.adapters.face_detector import FaceDetectorConfig  # noqa: E402
from curation.adapters.face_identity import FaceIdentity, IdentityConfig  # noqa: E402
from curation.adapters.person_detector import PersonDetector, PersonDetectorConfig  # noqa: E402
from curation.adapters.weights import WeightsError  # noqa: E402
from curation.faces import align  # noqa: E402
from curation.keyframes import KeyFrame, decode_jpeg, encode_jpeg  # noqa: E402
from curation.people import COLUMNS, VECTORS, FindPeople, PeopleConfig, PeopleScore, agreement, has_people  # noqa: E402
from manifests.records import Clip  # noqa: E402
from tests import picture_nets  # noqa: E402
from tests.picture_nets import FACE_TALL, FACE_WIDE, MARKS, painted  # noqa: E402

SIZE = 320
PERSON_WIDE, PERSON_TALL = 48.0, 96.0


class People(torch.nn.Module):
    """A person of 48 x 96 px around each cell of 32 px that is more blue than red, in one of four layouts; of 3 classes, people are number 1."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout: str = layout
        self.blue: int = 0 if layout == "yolox" else 2

    def forward(self, picture: torch.Tensor) -> list[torch.Tensor]:
        """[1, 3, size, size] -> the outputs of the layout."""
        size = picture.shape[3]
        bright = picture / 255 if self.layout == "yolox" else picture
        cells = torch.nn.functional.avg_pool2d(bright[:, self.blue : self.blue + 1] - bright[:, 2 - self.blue : 3 - self.blue], 32)
        score = cells.reshape(-1, 1).clamp(0.0, 1.0)
        side = size // 32
        at = torch.arange(side * side)
        cell = torch.stack([at % side, torch.div(at, side, rounding_mode="floor")], 1).float()
        centre, sides = cell * 32 + 16, torch.tensor([[48.0, 96.0]]).expand(side * side, 2)
        none = torch.zeros_like(score)
        if self.layout == "yolo":
            return [torch.cat([centre, sides, none, score, none], 1).t().unsqueeze(0)]
        if self.layout == "rows":
            return [torch.cat([centre - sides / 2, centre + sides / 2, score, none + 1], 1).unsqueeze(0)]
        if self.layout == "detr":
            odds = torch.logit(torch.cat([none, score, none], 1), eps=1e-4)
            return [odds.unsqueeze(0), (torch.cat([centre, sides], 1) / size).unsqueeze(0)]
        finer = torch.zeros(5 * side * side * 4, 8)  # strides 8 and 16 see nobody
        coarse = torch.cat([none + 0.5, none + 0.5, torch.log(sides / 32), none + 1, none, score, none], 1)
        return [torch.cat([finer, coarse], 0).unsqueeze(0)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A face detector, an identity network, and person detectors of every layout."""
    folder = tmp_path_factory.mktemp("weights")
    made = {"faces": picture_nets.yunet(folder / "faces.onnx"), "identity": picture_nets.arcface(folder / "identity.onnx")[0]}
    for layout in ("yolo", "yolox", "rows", "detr"):
        torch.jit.script(People(layout)).save(str(folder / f"{layout}.pt"))
        made[layout] = str(folder / f"{layout}.pt")
    return made


def _persons(weights: dict[str, str], layout: str = "yolo", person_class: int = 1) -> PersonDetectorConfig:
    return PersonDetectorConfig(weights=weights[layout], layout=layout, size_px=SIZE, person_class=person_class)  # type: ignore[arg-type]


def _config(weights: dict[str, str]) -> PeopleConfig:
    return PeopleConfig(
        faces=FaceDetectorConfig(weights=weights["faces"], size_px=SIZE),
        identity=IdentityConfig(weights=weights["identity"]),
        persons=_persons(weights),
    )


def _picture(faces: list[tuple[int, int]], people: list[tuple[int, int]]) -> np.ndarray:
    picture = painted(SIZE, 192, faces)
    for left, top in people:
        picture[top : top + 32, left : left + 32, 2] = 255
    return picture


def _case(clip_id: str, pictures: list[np.ndarray], kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    clip = Clip(clip_id=clip_id, asset_id="a", kind=kind, start_us=0, end_us=10_000_000)
    frames = [
        KeyFrame(asset_id="a", index=i, pts_us=i * 1_000_000, width=SIZE, height=192, jpeg=encode_jpeg(p, 98))
        for i, p in enumerate(pictures)
    ]
    return clip, frames


@pytest.mark.parametrize("layout", ["yolo", "yolox", "rows", "detr"])
def test_each_layout_finds_people_where_they_are(weights: dict[str, str], layout: str) -> None:
    """From a file in each layout, people of the wanted class lie where the network answers, in px of the picture."""
    detector = PersonDetector(_persons(weights, layout))
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)  # square, so that stretching and fitting are the same
    picture[128:160, 64:96, 2] = picture[64:96, 224:256, 2] = 255
    found = detector.find(np.kron(picture, np.ones((2, 2, 1), np.uint8)))
    boxes = sorted(found.boxes.tolist())
    assert len(found) == 2 and (found.scores > 0.9).all()
    for box, (x, y) in zip(boxes, [(80, 144), (240, 80)], strict=True):
        assert box == pytest.approx([2 * x - PERSON_WIDE, 2 * y - PERSON_TALL, 2 * x + PERSON_WIDE, 2 * y + PERSON_TALL], abs=0.5)
    assert len(PersonDetector(_persons(weights, layout, person_class=0)).find(picture)) == 0, "another class is nobody"


def test_counts_and_shares(weights: dict[str, str]) -> None:
    """n_faces and n_people are the most in one frame, the shares the largest box's, and one frame with two faces ends single_face."""
    two = _picture([(40, 64), (200, 96)], [(128, 96)])
    one = _picture([(40, 64)], [])
    none = _picture([], [])
    busy, alone, empty = FindPeople(_config(weights))([_case("a", [one, two]), _case("b", [one, one]), _case("c", [none, none])])
    assert (busy.n_faces, busy.n_people, busy.has_people, busy.single_face) == (2, 1, 1.0, 0.0)
    assert busy.face_share == pytest.approx(FACE_WIDE * FACE_TALL / (SIZE * 192), rel=0.02)
    assert busy.person_share == pytest.approx(PERSON_WIDE * PERSON_TALL / (SIZE * 192), rel=0.02)
    assert (alone.n_faces, alone.n_people, alone.has_people, alone.single_face) == (1, 0, 1.0, 1.0)
    assert (empty.n_faces, empty.face_share, empty.n_people, empty.has_people, empty.single_face) == (0, 0.0, 0, 0.0, 0.0)
    assert empty.identity_agreement is None and empty.identity == []


def test_identity_agreement_is_the_smallest_of_consecutive_frames(weights: dict[str, str]) -> None:
    """The same face moved agrees fully; a changed face agrees less, by exactly the cosine of the two aligned crops' vectors."""

    def face(left: int, top: int, key: int) -> np.ndarray:
        picture = _picture([(left, top)], [])
        around = np.random.Generator(np.random.Philox(key=key)).integers(0, 120, (6, 4), dtype=np.uint8)
        patch = np.kron(around, np.ones((8, 8), np.uint8))
        y, x = top + 4 - FACE_TALL // 2, left + 4 - FACE_WIDE // 2
        picture[y : y + FACE_TALL, x : x + FACE_WIDE, 1] = patch
        return picture

    stage = FindPeople(_config(weights))
    same, changed = stage(
        [_case("s", [face(80, 64, 1), face(160, 96, 1), face(80, 64, 1)]), _case("c", [face(80, 64, 1), face(80, 64, 2)])]
    )
    assert same.identity_agreement is not None and same.identity_agreement > 0.98
    crops = []
    for frame in _case("c", [face(80, 64, 1), face(80, 64, 2)])[1]:
        corner = np.array([84 - FACE_WIDE / 2, 68 - FACE_TALL / 2])
        crop = align(decode_jpeg(frame.jpeg), (corner + MARKS * [FACE_WIDE, FACE_TALL]).astype(np.float32))
        assert crop is not None
        crops.append(crop)
    a, b = FaceIdentity(IdentityConfig(weights=weights["identity"])).embed(crops)
    assert changed.identity_agreement == pytest.approx(float(a @ b), abs=0.01) and changed.identity_agreement < same.identity_agreement
    assert changed.identity is not None and changed.identity_box is not None and changed.identity_model is not None
    assert changed.identity_frame == [0, 1] and changed.identity_pts_us == [0, 1_000_000] and len(changed.identity[0]) == 512
    assert changed.identity_box[0] == pytest.approx([68 / SIZE, 44 / 192, FACE_WIDE / SIZE, FACE_TALL / 192], abs=0.01)
    assert changed.identity_model.startswith("identity:")


def test_small_faces_have_no_identity(weights: dict[str, str]) -> None:
    """A face smaller than the limit is counted, but not named."""
    cfg = _config(weights)
    stage = FindPeople(PeopleConfig(faces=cfg.faces, identity=cfg.identity, min_identity_px=FACE_WIDE + 1))
    score = stage([_case("a", [_picture([(40, 64)], [])] * 2)])[0]
    assert score.n_faces == 1 and score.identity == [] and score.identity_agreement is None


def test_only_what_has_weights_is_run(weights: dict[str, str]) -> None:
    """Without weights all columns are null, without an error; with faces only, people are unknown where no face is seen."""
    case = _case("a", [_picture([], [])])
    assert FindPeople(PeopleConfig())([case]) == [PeopleScore(clip_id="a")] and not PeopleConfig().wanted
    faces = PeopleConfig(faces=FaceDetectorConfig(weights=weights["faces"], size_px=SIZE))
    score = FindPeople(faces)([case])[0]
    assert faces.wanted and score.n_faces == 0 and score.n_people is None and score.has_people is None and score.identity is None
    assert has_people(None, 2) == 1.0 and has_people(0, 1) == 1.0 and has_people(0, None) == 0.0 and has_people(None, None) is None
    with pytest.raises(ValueError, match=r"expected faces\.weights beside identity\.weights"):
        PeopleConfig(identity=IdentityConfig(weights=weights["identity"]))


def test_failed_clips_keep_their_place(weights: dict[str, str]) -> None:
    """Broken and missing frames give their own record with a reason; sound gives an empty one; the others are scored."""
    good = _case("good", [_picture([(40, 64)], [])])
    broken = (good[0], [KeyFrame(asset_id="a", index=0, pts_us=0, width=1, height=1, jpeg=good[1][0].jpeg[:300])])
    scores = FindPeople(_config(weights))([broken, good, (good[0], []), _case("s", [], "audio")])
    assert [s.error_code for s in scores] == ["bad_keyframe", None, "bad_keyframe", None]
    assert [s.n_faces for s in scores] == [None, 1, None, None]


def test_an_answer_that_is_no_number_is_its_clips_error(weights: dict[str, str], tmp_path: Path) -> None:
    """A detector that answers one black picture with nan leaves that clip with model_failed, and the next one with its people."""

    class Dark(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = People("yolo")

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            bright = picture.amax()
            return self.inner(picture)[0] * torch.where(bright < 0.46, bright / 0 - bright / 0, bright / bright)

    torch.jit.script(Dark()).save(str(tmp_path / "dark.pt"))
    cfg = PersonDetectorConfig(weights=str(tmp_path / "dark.pt"), layout="yolo", size_px=SIZE, person_class=1)
    black, painted_one = np.zeros((SIZE, SIZE, 3), np.uint8), _picture([], [(4, 4)])
    bad, good = FindPeople(PeopleConfig(persons=cfg))([_case("a", [painted_one, black]), _case("b", [painted_one])])
    assert (bad.error_code, bad.n_people) == ("model_failed", None) and "clip a: persons dark" in (bad.error_detail or "")
    assert (good.error_code, good.n_people) == (None, 1)


def test_wrong_files_are_clear_errors(weights: dict[str, str], tmp_path: Path) -> None:
    """A missing file says what to fetch; another layout or class never counts; identity without landmarks is refused."""
    with pytest.raises(WeightsError, match=r"persons\.weights: expected .*YOLOX.* at .*none\.onnx, found no file; fetch it"):
        PersonDetector(PersonDetectorConfig(weights=str(tmp_path / "none.onnx")))
    with pytest.raises(WeightsError, match="expected a class 3, found 3 classes"):
        PersonDetector(_persons(weights, person_class=3)).find(np.zeros((64, 64, 3), np.uint8))
    wrong: Any = PersonDetectorConfig(weights=weights["yolo"], layout="yolox", size_px=SIZE)
    with pytest.raises(WeightsError, match="expected the layout yolox"):
        PersonDetector(wrong).find(np.zeros((64, 64, 3), np.uint8))
    bare = FaceDetectorConfig(weights=picture_nets.scrfd(tmp_path / "s.onnx", marks=False), layout="scrfd", size_px=SIZE)
    stage = FindPeople(PeopleConfig(faces=bare, identity=IdentityConfig(weights=weights["identity"])))
    with pytest.raises(WeightsError, match="expected a face detector with landmarks"):
        stage([_case("a", [_picture([(40, 64)], [])])])


def test_an_onnx_detector_is_read_like_a_torchscript_one(tmp_path: Path) -> None:
    """A file that ends in .onnx runs in onnxruntime; outputs of another layout are named as such."""
    detector = PersonDetector(PersonDetectorConfig(weights=picture_nets.centerface(tmp_path / "p.onnx"), layout="yolox", size_px=64))
    with pytest.raises(WeightsError, match="expected the layout yolox"):
        detector.find(np.zeros((64, 64, 3), np.uint8))


def test_agreement_of_consecutive_vectors() -> None:
    """The smallest cosine of neighbours; frames apart are not compared; fewer than two vectors say nothing."""
    assert agreement([[1, 0], [0.6, 0.8], [0, 1]]) == pytest.approx(0.6)
    assert agreement([[1, 0]]) is None and agreement([]) is None


def test_every_column_and_vector_is_a_field() -> None:
    """What the plan stores of a clip is what the record has."""
    fields = set(PeopleScore.__slots__)
    assert set(COLUMNS) | {f.name for f in VECTORS} | {"clip_id", "error_code", "error_detail"} == fields
    assert set(COLUMNS) <= set(Clip.__slots__)
