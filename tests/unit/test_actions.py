"""Actions: the taxonomy's facts, retrieval through small models that the tests make, and what found clips are spared."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from curation import actions  # noqa: E402
from curation.actions import (  # noqa: E402
    COLUMNS,
    VECTORS,
    ActionsConfig,
    ActionScore,
    FindActions,
    HumanActionConfig,
    in_human_taxonomy,
    measure_human_action,
    sentence_vectors,
    taxonomy,
    taxonomy_digest,
)
from curation.adapters.open_clip import OpenClipConfig  # noqa: E402
from curation.adapters.video_text import PairConfig, VideoTextConfig, load_video_text  # noqa: E402
from curation.adapters.weights import WeightsError  # noqa: E402
from curation.keyframes import KeyFrame, decode_jpeg, encode_jpeg  # noqa: E402
from manifests.records import Clip  # noqa: E402

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
DIGEST_OF_VERSION = {"1": "562e4f8e4576"}
"""A changed taxonomy is a new version of the measure, or stored scores would be taken for those of the new one."""


class Video(torch.nn.Module):
    """The mean colour of a video and its change from the first to the last frame, of length 6."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """[1, frames, 3, s, s] -> [1, 6]."""
        means = pictures.mean((3, 4))
        return torch.cat([means.mean(1), means[:, -1] - means[:, 0]], 1)


class Text(torch.nn.Module):
    """Sums of waves over the tokens, of length 6."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, context] -> [n, 6]."""
        return torch.stack([torch.sin(tokens.float() * (0.1 + 0.37 * i)).sum(1) for i in range(6)], 1)


def _case(clip_id: str, n_frames: int = 3, kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    draw = np.random.Generator(np.random.Philox(key=len(clip_id)))
    pictures = [draw.integers(0, 255, (36, 64, 3)).astype(np.uint8) for _ in range(n_frames)]
    clip = Clip(clip_id=clip_id, asset_id="a", kind=kind, start_us=0, end_us=1)
    return clip, [KeyFrame(asset_id=clip_id, index=i, pts_us=i, width=64, height=36, jpeg=encode_jpeg(p)) for i, p in enumerate(pictures)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny CLIP with random weights, and a pair of TorchScript towers."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    (folder / "tiny-joint.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-joint.json")
    model = open_clip.create_model("tiny-joint", pretrained=None, load_weights=False).eval()
    draw = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
    save_file(model.state_dict(), folder / "joint.safetensors")
    torch.jit.script(Video()).save(str(folder / "video.pt"))
    torch.jit.script(Text()).save(str(folder / "text.pt"))
    return {"folder": folder, "model": model}


def _clip(weights: dict[str, Any]) -> VideoTextConfig:
    folder = weights["folder"]
    return VideoTextConfig(
        clip=OpenClipConfig(model="tiny-joint", model_config=str(folder / "tiny-joint.json"), weights=str(folder / "joint.safetensors"))
    )


def _pair(weights: dict[str, Any]) -> VideoTextConfig:
    return VideoTextConfig(
        pair=PairConfig(video=str(weights["folder"] / "video.pt"), text=str(weights["folder"] / "text.pt"), frames=4, size_px=8)
    )


def test_the_taxonomy_has_at_least_600_unique_actions() -> None:
    """600 and more phrases, no two alike in any case, in groups of several, in plain letters, each saying what somebody is doing."""
    listed = taxonomy()
    phrases = [a.phrase for a in listed]
    groups = {a.group for a in listed}
    assert len(phrases) >= 600 and len({p.lower() for p in phrases}) == len(phrases)
    assert len(groups) >= 20 and all(sum(a.group == g for a in listed) >= 5 for g in groups)
    for phrase in phrases:
        assert re.fullmatch(r"[A-Za-z]+(?:['-]?[A-Za-z]+)*(?: [A-Za-z]+(?:['-]?[A-Za-z]+)*)*", phrase), phrase
        assert len(phrase) <= 48 and re.search(r"[a-z]ing\b", phrase), f"'a person {phrase}' is no prompt"
    lines = [line for line in actions.TAXONOMY.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) == len(listed) and all(line == line.strip() and line.count("\t") == 1 for line in lines)


def test_a_changed_taxonomy_is_a_new_version() -> None:
    """The digest of the taxonomy stands beside the version of the measure."""
    assert DIGEST_OF_VERSION[actions.VERSION] == taxonomy_digest()


def test_scores_equal_direct_computation(weights: dict[str, Any]) -> None:
    """With open_clip, the action is the phrase whose mean prompt vector is nearest to the mean frame vector; the margin is to the background."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    cfg = ActionsConfig(model=_clip(weights), top_k=3)
    stage = FindActions(cfg)
    model, tokens = weights["model"], open_clip.SimpleTokenizer(context_length=12)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    phrases = [a.phrase for a in taxonomy()]
    with torch.inference_mode():
        asked = sum(model.encode_text(tokens([p.format(x) for x in phrases]), normalize=True) for p in cfg.prompts)
        asked = torch.nn.functional.normalize(asked, dim=-1)
        background = model.encode_text(tokens(list(cfg.background)), normalize=True)
        for case in (_case("a"), _case("bb", 1)):
            seen = model.encode_image(torch.stack([transform(Image.fromarray(decode_jpeg(f.jpeg))) for f in case[1]]), normalize=True)
            seen = torch.nn.functional.normalize(seen.mean(0), dim=-1)
            expected = (asked @ seen).numpy()
            score = stage([case])[0]
            assert score.action_score == pytest.approx(expected.max(), abs=1e-4)
            assert score.action_margin == pytest.approx(expected.max() - float((background @ seen).max()), abs=1e-4)
            assert score.action_top is not None and score.action == score.action_top[0] and len(set(score.action_top)) == 3
            assert score.action_top_score == pytest.approx(sorted(expected, reverse=True)[:3], abs=1e-4)
            assert score.video_text is not None and np.allclose(score.video_text, seen.numpy(), atol=1e-4)
            assert score.video_text_model is not None and score.video_text_model.startswith("tiny-joint:")


def test_a_pair_of_towers_sees_time(weights: dict[str, Any]) -> None:
    """A TorchScript pair is shown the frames in order, as many as it takes, and CLIP's tokens; its vectors are those of the towers over their length."""
    import open_clip

    model = load_video_text(_pair(weights))
    dark, bright = np.zeros((36, 64, 3), np.uint8), np.full((36, 64, 3), 255, np.uint8)
    rising, falling = model.embed_video([dark, bright]), model.embed_video([bright, dark])
    assert rising.shape == (6,) and np.linalg.norm(rising) == pytest.approx(1)
    assert np.allclose(rising[:3], falling[:3], atol=1e-5) and np.allclose(rising[3:], -falling[3:], atol=1e-5) and rising[3] > 0
    sentences = ["a person walking", "a person juggling"]
    direct = Text()(open_clip.SimpleTokenizer(context_length=77)(sentences))
    assert np.allclose(model.embed_text(sentences), torch.nn.functional.normalize(direct, dim=-1).numpy(), atol=1e-5)
    score = FindActions(ActionsConfig(model=_pair(weights)))([_case("a")])[0]
    assert score.action in {a.phrase for a in taxonomy()} and score.error_code is None


def test_sentences_are_embedded_once(tmp_path: Path) -> None:
    """A second process with the same weights and sentences reads the first one's vectors; other weights or sentences have their own."""

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.asked = name, 0

        def embed_video(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
            return np.array([1.0, 0.0], np.float32)

        def embed_text(self, sentences: Sequence[str]) -> np.ndarray:
            self.asked += len(sentences)
            angles = np.array([sum(map(ord, s)) for s in sentences])
            return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    cfg = ActionsConfig(prompts=("a person {}",), background=("nobody",), cache=str(tmp_path / "cache"))
    first, second, other = Counted("m:1"), Counted("m:1"), Counted("m:2")
    vectors = sentence_vectors(first, cfg)
    assert vectors.shape == (len(taxonomy()) + 1, 2) and first.asked == len(taxonomy()) + 1
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(sentence_vectors(second, cfg), vectors) and second.asked == 0
    assert len(sentence_vectors(other, cfg)) == len(vectors) and other.asked == first.asked
    sentence_vectors(second, ActionsConfig(prompts=("someone {}",), background=("nobody",), cache=cfg.cache))
    assert second.asked > 0 and not list((tmp_path / "cache").glob("*.tmp"))


def test_without_weights_nothing_is_run(weights: dict[str, Any]) -> None:
    """Without weights all columns are null, without an error; sound has no picture; broken and missing frames keep their place."""
    assert FindActions(ActionsConfig())([_case("a")]) == [ActionScore(clip_id="a")] and not ActionsConfig().wanted
    clip, frames = _case("bad")
    broken = [KeyFrame(asset_id="bad", index=0, pts_us=0, width=1, height=1, jpeg=frames[0].jpeg[:300])]
    scores = FindActions(ActionsConfig(model=_pair(weights)))([(clip, broken), _case("good"), (clip, []), _case("s", kind="audio")])
    assert [s.error_code for s in scores] == ["bad_keyframe", None, "bad_keyframe", None]
    assert [s.action is None for s in scores] == [True, False, True, True]


def test_a_vector_that_is_no_number_is_its_clips_error(weights: dict[str, Any], tmp_path: Path) -> None:
    """A tower that answers one grey video with nan leaves that clip with model_failed, and the next one with its action."""

    class Grey(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            means = pictures.mean((1, 3, 4))
            spread = pictures.std().reshape(1, 1)
            return torch.cat([means, means], 1) * (spread / spread)

    torch.jit.script(Grey()).save(str(tmp_path / "grey.pt"))
    pair = _pair(weights)
    cfg = replace(pair, pair=replace(pair.pair, video=str(tmp_path / "grey.pt"), std=(1.0, 1.0, 1.0), mean=(0.0, 0.0, 0.0)))
    plain = KeyFrame(asset_id="p", index=0, pts_us=0, width=64, height=36, jpeg=encode_jpeg(np.zeros((36, 64, 3), np.uint8)))
    clip, frames = _case("busy")
    bad, good = FindActions(ActionsConfig(model=cfg))([(clip, [plain]), (clip, frames)])
    assert (bad.error_code, bad.action) == ("model_failed", None) and "clip busy: video_text" in (bad.error_detail or "")
    assert good.error_code is None and good.action


def test_wrong_files_are_clear_errors(weights: dict[str, Any], tmp_path: Path) -> None:
    """Missing files say what to fetch; an image tower alone is not both towers; a model that reads a hub's tokens is refused; settings are checked."""
    folder = weights["folder"]
    with pytest.raises(
        WeightsError, match=r"video_text\.clip\.weights: expected the open_clip checkpoint of ViT-B-32, both towers.*fetch it"
    ):
        load_video_text(VideoTextConfig(clip=OpenClipConfig(weights=str(tmp_path / "none.safetensors"))))
    with pytest.raises(WeightsError, match=r"pair: expected video=<file> and text=<file>"):
        load_video_text(VideoTextConfig(pair=PairConfig(video=str(folder / "video.pt"))))
    with pytest.raises(WeightsError, match="expected a TorchScript file"):
        load_video_text(VideoTextConfig(pair=PairConfig(video=str(folder / "video.pt"), text=str(folder / "joint.safetensors"))))
    from safetensors.torch import save_file

    save_file({k: v for k, v in weights["model"].state_dict().items() if k.startswith("visual.")}, tmp_path / "image.safetensors")
    alone = OpenClipConfig(model="tiny-joint", model_config=str(folder / "tiny-joint.json"), weights=str(tmp_path / "image.safetensors"))
    with pytest.raises(WeightsError, match="expected the weights of CLIP"):
        load_video_text(VideoTextConfig(clip=alone))
    with pytest.raises(ValueError, match="found both"):
        VideoTextConfig(clip=alone, pair=PairConfig(video="v", text="t"))
    with pytest.raises(ValueError, match=r"prompts with one \{\} each"):
        ActionsConfig(prompts=("a person",))


def test_a_clip_is_found_by_score_and_margin() -> None:
    """human_action is 1 where both reach their thresholds, 0 where one does not, and unknown where the model did not run."""
    cfg = HumanActionConfig(min_score=0.2, min_margin=0.05)
    assert in_human_taxonomy(0.2, 0.05, cfg) is True and in_human_taxonomy(0.3, 0.0, cfg) is False
    assert in_human_taxonomy(0.1, 0.2, cfg) is False and in_human_taxonomy(None, None, cfg) is None
    clip = Clip(clip_id="a", asset_id="a", kind="video", start_us=0, end_us=1, action_score=0.3, action_margin=0.1)
    assert measure_human_action(clip, cfg) == {"human_action": 1.0}


def test_every_column_and_vector_is_a_field() -> None:
    """What the plan stores of a clip is what the record has."""
    assert set(COLUMNS) | {f.name for f in VECTORS} | {"clip_id", "error_code", "error_detail"} == set(ActionScore.__slots__)
    assert {*COLUMNS, "human_action"} <= set(Clip.__slots__)
