"""Models side by side: what is measured of each, on which clips, and what the page shows."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.evaluate_films import TextAgreement, frame_consistency, vmaf_motion
from tests.text_makers import metaclip
from training.errors import TrainingError
from training.flow import SamplerConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import Transformer, TransformerConfig, initialise


def write(folder: Path, described: dict[str, object], state: dict[str, torch.Tensor]) -> str:
    """An export; gives the digest of its weights."""
    data = save({k: v.contiguous() for k, v in state.items()})
    sha256 = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps({**described, "sha256": sha256}))
    return sha256


def models(root: Path, tae: Path, noise: float) -> Path:
    """A folder with an autoencoder, its weights disturbed, and a generator on it."""
    trained = {"size_px": 32, "resize_px": 32, "n_frames": 9, "shapes": "square", "holdout_share": 0.25}
    described = json.loads((tae / "config.json").read_text()) | {"trained_on": trained}
    generator = torch.Generator().manual_seed(0)
    state = {k: v + noise * torch.randn(v.shape, generator=generator) for k, v in load_file(tae / "weights.safetensors").items()}
    sha256 = write(root / "tae/export", described, state)
    sizes = TransformerConfig(layers=1, width=32, ffn=64, heads=2, latent_channels=4, max_t=2, max_h=2, max_w=2, bytes_width=16)
    model = Transformer(sizes)
    initialise(model, 0)
    text = TextConfig(bytes_width=16, bytes_tokens=8)
    description = {
        "stage": "t2v_256", "model": dataclasses.asdict(sizes), "text": dataclasses.asdict(text),
        "sampler": dataclasses.asdict(SamplerConfig(steps=2, linear_steps=4)), "trained_on": trained,
        "text_keys": {e.name: e.key for e in load_encoders(text)},
        "latents": {"mean": [0.0] * 4, "std": [1.0] * 4, "tae_sha256": sha256},
    }  # fmt: skip
    write(root / "t2v_256/export", description, model.state_dict())
    return root


def test_models_are_compared_on_the_same_clips_and_prompts(dataset: Path, tae: Path, tmp_path: Path) -> None:
    """Each column has PSNR and SSIM of its autoencoder and the loss of its generator; the disturbed one is worse and the page says which is
    best; films of each prompt lie beside the page."""
    folders = [str(models(tmp_path / name, tae, noise)) for name, noise in (("whole", 0.0), ("disturbed", 0.3))]
    (tmp_path / "prompts.txt").write_text("soft <i>waves</i>\n")
    command = [
        "evaluate",
        *folders,
        "--data",
        str(dataset),
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    whole, disturbed = json.loads(result.stdout)["columns"]
    of = [{m["name"]: m["value"] for m in column["measures"]} for column in (whole, disturbed)]
    assert set(of[0]) == set(of[1]) == {"tae PSNR, dB", "tae SSIM", "t2v_256 loss", "frame consistency", "motion"}
    assert of[0]["tae PSNR, dB"] > of[1]["tae PSNR, dB"]
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert written["columns"][0]["measures"] == whole["measures"] and written["manifest_version"] == 0
    assert all(m["clips"] for m in whole["measures"] if m["name"].startswith("t"))
    for column in (whole, disturbed):
        assert (tmp_path / "out" / column["films"][0]["film"]).exists()
    page = (tmp_path / "out/index.html").read_text()
    assert "soft &lt;i&gt;waves" in page and 'class="n best"' in page and "whole" in page


def test_a_film_is_measured() -> None:
    """A still film has consistency 1 and no motion; noise has little of the one and much of the other, and motion is vmafmotion's of a step."""
    still = np.full((4, 32, 32, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    assert frame_consistency(still) == pytest.approx(1, abs=1e-4) and vmaf_motion(still) == 0
    assert frame_consistency(noise) < 0.3 and vmaf_motion(noise) > 5
    stepped = np.stack([still[0], still[0] + 10, still[0], still[0] + 10])
    assert vmaf_motion(stepped) == pytest.approx(10, abs=0.01)


def test_text_agreement_needs_a_whole_model(tmp_path: Path) -> None:
    """A local open_clip model gives a cosine that depends on prompt and pictures; a folder without one is refused."""
    agreement = TextAgreement(metaclip(tmp_path / "clip"))
    frames = np.random.default_rng(1).integers(0, 255, (4, 40, 60, 3), np.uint8)
    found = {agreement(f, p) for f in (frames, 255 - frames) for p in ("a dog", "an old house by the sea")}
    assert len(found) == 4 and all(-1 <= v <= 1 for v in found)
    with pytest.raises(TrainingError, match="open_clip"):
        TextAgreement(tmp_path / "nothing")
