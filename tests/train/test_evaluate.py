"""Models side by side: what is measured of each, on which clips, and what the page shows."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.evaluate_films import TextAgreement
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


def models(root: Path, tae: Path, noise: float, n_frames: int = 9) -> Path:
    """A folder with an autoencoder, its weights disturbed, and a generator on it."""
    trained = {"size_px": 32, "resize_px": 32, "n_frames": n_frames, "shapes": "square", "holdout_share": 0.25}
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
    rows = {f"{name}, {kind}" for name in ("tae PSNR, dB", "tae SSIM") for kind in ("videos", "pictures")}
    assert set(of[0]) == set(of[1]) == rows | {"t2v_256 loss, videos", "frame consistency", "motion"}
    assert of[0]["tae PSNR, dB, videos"] > of[1]["tae PSNR, dB, videos"]
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert written["columns"][0]["measures"] == whole["measures"] and written["manifest_version"] == 0
    assert all(m["clips"] for m in whole["measures"] if m["name"].startswith("t"))
    for column in (whole, disturbed):
        assert (tmp_path / "out" / column["films"][0]["film"]).exists()
    page = (tmp_path / "out/index.html").read_text()
    assert "soft &lt;i&gt;waves" in page and 'class="n best"' in page and "whole" in page


def compared(tmp_path: Path, dataset: Path, folders: list[Path], *more: str) -> tuple[dict[str, Any], str]:
    """(evaluation.json, the page) of the folders' models."""
    command = ["evaluate", *map(str, folders), "--data", str(dataset), "--out", str(tmp_path / "out"), *more]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    return json.loads((tmp_path / "out/evaluation.json").read_text()), (tmp_path / "out/index.html").read_text()


def test_columns_of_different_forms_are_not_ranked(dataset: Path, tae: Path, tmp_path: Path) -> None:
    """Models trained on 8 and on 9 frames are measured on clips that are long enough for both, and none is marked as better; nor is a loss
    in the latents of another autoencoder. Pictures, whose form is the same, are ranked. Every cell says of how many clips it is."""
    folders = [models(tmp_path / name, tae, noise, n) for name, noise, n in (("short", 0.0, 8), ("long", 0.3, 9))]
    found, page = compared(tmp_path, dataset, folders)
    short, long = ({m["name"]: m for m in column["measures"]} for column in found["columns"])
    assert set(short) == set(long) and all(short[name]["clips"] == long[name]["clips"] and short[name]["clips"] for name in short)
    assert short["tae PSNR, dB, videos"]["form"]["n_frames"] == 8 and long["tae PSNR, dB, videos"]["form"]["n_frames"] == 9
    rows = {line.split("<td>")[1].split("</td>")[0]: line for line in page.splitlines() if line.startswith("<tr><td>")}
    assert {name for name, row in rows.items() if "n best" in row} == {"tae PSNR, dB, pictures", "tae SSIM, pictures"}
    assert "n_frames 9" in rows["tae PSNR, dB, videos"] and "not compared" in rows["t2v_256 loss, videos"]
    assert all(f"of {len(short[name]['clips'])}" in row for name, row in rows.items())


def test_two_exports_of_a_stage_have_rows_of_their_own(dataset: Path, tae: Path, tmp_path: Path) -> None:
    """Of two runs of a stage in one folder neither replaces the other: each row has digits of its weights."""
    root = models(tmp_path / "one", tae, 0.0)
    other = models(tmp_path / "other", tae, 0.2)
    for run, source in (("run-0", root), ("run-1", other)):
        shutil.move(source / "tae/export", tmp_path / "both/tae" / run / "export")
    found, _ = compared(tmp_path, dataset, [tmp_path / "both/tae"])
    names = [m["name"] for m in found["columns"][0]["measures"]]
    digits = {model["sha256"][:8] for model in found["columns"][0]["models"]}
    assert len(digits) == 2 and {f"tae {d} SSIM, videos" for d in digits} < set(names) and len(set(names)) == len(names)


def test_what_cannot_be_loaded_is_not_called_missing(dataset: Path, tae: Path, tmp_path: Path) -> None:
    """A column without a text-to-video stage, and one whose stage cannot be loaded, say which it is, in JSON and on the page."""
    bare, broken = models(tmp_path / "bare", tae, 0.0), models(tmp_path / "broken", tae, 0.1)
    shutil.rmtree(bare / "t2v_256")
    weights = broken / "t2v_256/export/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (tmp_path / "prompts.txt").write_text("waves\n")
    found, page = compared(tmp_path, dataset, [bare, broken], "--prompts", str(tmp_path / "prompts.txt"))
    first, second = (column["problems"] for column in found["columns"])
    assert first == ["no films, as it has no text-to-video stage"]
    assert (
        len(second) == 2
        and all("expected SHA-256" in problem for problem in second)
        and second[1].startswith("no films, as they could not")
    )
    assert "no text-to-video stage" in page and "expected SHA-256" in page


def test_text_agreement_needs_a_whole_model(tmp_path: Path) -> None:
    """A local open_clip model gives a cosine that depends on prompt and pictures; a folder without one is refused."""
    agreement = TextAgreement(metaclip(tmp_path / "clip"))
    frames = np.random.default_rng(1).integers(0, 255, (4, 40, 60, 3), np.uint8)
    found = {agreement(f, p) for f in (frames, 255 - frames) for p in ("a dog", "an old house by the sea")}
    assert len(found) == 4 and all(-1 <= v <= 1 for v in found)
    with pytest.raises(TrainingError, match="open_clip"):
        TextAgreement(tmp_path / "nothing")
