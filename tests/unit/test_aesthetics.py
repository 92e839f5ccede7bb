"""Aesthetics: local weights are loaded for real, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.adapters.open_clip import OpenClipConfig, WeightsError
from curation.aesthetics import AestheticScore, ScoreAesthetics, middle_frame
from curation.keyframes import KeyFrame, decode_jpeg, encode_jpeg
from manifests.records import Clip

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
MLP = ((16, 12), (12, 8), (8, 1))


def _case(clip_id: str, n_frames: int = 3, kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    draw = np.random.Generator(np.random.Philox(key=len(clip_id)))
    pictures = [draw.integers(0, 255, (36, 64, 3)).astype(np.uint8) for _ in range(n_frames)]
    clip = Clip(clip_id=clip_id, asset_id="a", kind=kind, start_us=0, end_us=n_frames)
    return clip, [KeyFrame(asset_id=clip_id, index=i, pts_us=i, width=64, height=36, jpeg=encode_jpeg(p)) for i, p in enumerate(pictures)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny CLIP with random weights in both file formats, and both layouts of aesthetic head."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    model = open_clip.create_model("tiny-clip", pretrained=None, load_weights=False).eval()
    draw = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
    save_file(model.state_dict(), folder / "clip.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "clip.pt")
    linear = {"weight": torch.randn((1, 16), generator=draw), "bias": torch.randn((1,), generator=draw)}
    torch.save(linear, folder / "linear.pth")
    layers = [(torch.randn((o, i), generator=draw), torch.randn((o,), generator=draw)) for i, o in MLP]
    torch.save(
        {f"layers.{2 * n}.{k}": t for n, pair in enumerate(layers) for k, t in zip(("weight", "bias"), pair, strict=True)},
        folder / "mlp.pth",
    )
    return {"folder": folder, "model": model, "linear": linear, "layers": layers}


def _config(weights: dict[str, Any], file: str = "clip.safetensors", head: str | None = "linear.pth") -> OpenClipConfig:
    folder = weights["folder"]
    return OpenClipConfig(
        model="tiny-clip",
        model_config=str(folder / "tiny-clip.json"),
        weights=str(folder / file),
        head=None if head is None else str(folder / head),
    )


def _direct(weights: dict[str, Any], frames: list[KeyFrame]) -> Any:
    """The L2-normalised embedding of the middle frame, computed by open_clip's own means."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    transform = image_transform_v2(PreprocessCfg(**weights["model"].visual.preprocess_cfg), is_train=False)
    with torch.inference_mode():
        pixels = transform(Image.fromarray(decode_jpeg(frames[len(frames) // 2].jpeg)))[None]
        return weights["model"].encode_image(pixels, normalize=True)[0]


@pytest.mark.parametrize("file", ["clip.safetensors", "clip.pt"])
def test_embedding_and_linear_score_equal_direct_computation(weights: dict[str, Any], file: str) -> None:
    """From either file format, the embedding is that of the middle frame and the score is the linear head on it."""
    cases = [_case("a"), _case("bb")]
    scores = ScoreAesthetics(_config(weights, file))(cases)
    for (clip, frames), score in zip(cases, scores, strict=True):
        expected = _direct(weights, frames)
        assert score.clip_id == clip.clip_id and score.embedding is not None and score.aesthetic is not None
        assert np.allclose(score.embedding.vector, expected.numpy(), atol=1e-5)
        assert score.aesthetic == pytest.approx(float(weights["linear"]["weight"] @ expected + weights["linear"]["bias"]), abs=1e-4)
        assert score.embedding.model.startswith("tiny-clip:") and len(score.embedding.model) == len("tiny-clip:") + 12


def test_mlp_head_is_a_plain_stack(weights: dict[str, Any]) -> None:
    """The improved predictor's layers are applied one after the other without an activation."""
    case = _case("a")
    x = _direct(weights, case[1])
    for weight, bias in weights["layers"]:
        x = weight @ x + bias
    score = ScoreAesthetics(_config(weights, head="mlp.pth"))([case])[0].aesthetic
    assert score == pytest.approx(float(x), abs=1e-3)


def test_without_weights_nothing_is_run(weights: dict[str, Any]) -> None:
    """Without weights the scores are null and no error; without a head there is an embedding and no score."""
    assert ScoreAesthetics(OpenClipConfig())([_case("a")]) == [AestheticScore(clip_id="a")]
    score = ScoreAesthetics(_config(weights, head=None))([_case("a")])[0]
    assert score.aesthetic is None and score.embedding is not None


def test_failed_clips_keep_their_place(weights: dict[str, Any]) -> None:
    """Broken and missing frames and sound give records without a score, in the place of their clip."""
    clip, frames = _case("bad")
    broken = [KeyFrame(asset_id="bad", index=0, pts_us=0, width=1, height=1, jpeg=frames[0].jpeg[:300])]
    scores = ScoreAesthetics(_config(weights))([(clip, broken), _case("good"), (clip, []), _case("s", kind="audio")])
    assert [s.error_code for s in scores] == ["bad_keyframe", None, "bad_keyframe", None]
    assert [s.aesthetic is None for s in scores] == [True, False, True, True]


def test_a_score_that_is_no_number_is_its_clips_error(weights: dict[str, Any]) -> None:
    """Where the network answers one clip with nan, that clip has model_failed and no vector, and the next one its score."""
    stage = ScoreAesthetics(_config(weights))
    network = stage.network
    assert network is not None

    class Sometimes:
        name = network.name

        def embed(self, pictures: list[np.ndarray]) -> np.ndarray:
            return network.embed(pictures) * np.where(np.arange(len(pictures)) == 0, np.nan, 1).astype(np.float32)[:, None]

        def rate(self, vectors: np.ndarray) -> Any:
            return network.rate(vectors)

    (alone,) = stage([_case("bb")])
    stage.network = Sometimes()  # type: ignore[assignment]
    bad, good = stage([_case("a"), _case("bb")])
    assert (bad.aesthetic, bad.embedding, bad.error_code) == (None, None, "model_failed")
    assert good.error_code is None and good.aesthetic == pytest.approx(alone.aesthetic, abs=1e-5)


def test_missing_and_wrong_files_are_clear_errors(weights: dict[str, Any], tmp_path: Path) -> None:
    """A missing file says what to fetch and where to put it; a foreign file, a hub name and a wrong head never load."""
    folder = weights["folder"]
    with pytest.raises(WeightsError, match=r"open_clip checkpoint of ViT-B-32 .* at .*none\.safetensors .*fetch it"):
        ScoreAesthetics(OpenClipConfig(weights=str(tmp_path / "none.safetensors")))
    with pytest.raises(WeightsError, match="built-in model, found 'hf-hub:x/y'"):
        ScoreAesthetics(OpenClipConfig(model="hf-hub:x/y", weights=str(folder / "clip.pt")))
    with pytest.raises(WeightsError, match="expected the weights of VisionTransformer"):
        ScoreAesthetics(_config(weights, "linear.pth"))
    (tmp_path / "noise.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="checkpoint of plain tensors"):
        ScoreAesthetics(OpenClipConfig(model="ViT-B-32", weights=str(tmp_path / "noise.pt")))
    with pytest.raises(WeightsError, match=r"aesthetic head .*expected 'weight'"):
        ScoreAesthetics(_config(weights, head="clip.safetensors"))


def test_a_checkpoint_cannot_run_code(weights: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint that carries more than tensors is refused without being run."""
    import torch

    torch.save({"weight": Path("x")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="plain tensors"):
        ScoreAesthetics(OpenClipConfig(model="tiny-clip", weights=str(tmp_path / "evil.pt")))


def test_the_middle_frame_is_the_nearest_in_time() -> None:
    """Key frames are unevenly spaced: the middle one is that nearest to the middle of the clip, in any order; the earlier of two."""
    clip, frames = _case("a", 4)
    clip = replace(clip, start_us=0, end_us=4)
    assert middle_frame(frames[::-1], clip).pts_us == 2
    assert middle_frame(frames[:2], clip).pts_us == 1
    assert middle_frame([frames[1], frames[3]], clip).pts_us == 1
