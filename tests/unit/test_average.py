"""Averages of several trainings' weights."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from training.average import average_exports, is_average_of
from training.errors import TrainingError
from training.latents import read_export


def _export(run: Path, value: float, width: int = 2) -> Path:
    """A run's folder with an export of one weight."""
    folder = run / "export"
    folder.mkdir(parents=True, exist_ok=True)
    data = save({"w": torch.full((width,), value)})
    (folder / "weights.safetensors").write_bytes(data)
    described = {"stage": "video_sft", "model": {"width": width}, "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "config.json").write_text(json.dumps(described))
    return run


def test_weights_are_means_and_the_description_names_their_sources(tmp_path: Path) -> None:
    """Of 1, 2 and 6 the average is 3; the export is whole and names the digests of the three."""
    runs = [_export(tmp_path / f"run-{i}", v) for i, v in enumerate((1.0, 2.0, 6.0))]
    out = average_exports(runs, tmp_path / "average")
    assert load_file(out / "weights.safetensors")["w"].tolist() == [3.0, 3.0]
    described, _ = read_export(out, "video_sft")
    assert described["average_of"] == [read_export(r, "")[0]["sha256"] for r in runs] and described["weights"] == "mean"


def test_an_average_of_before_is_not_taken_for_one_of_now(tmp_path: Path) -> None:
    """It is that of the runs until one of them exports other weights, or of another number of runs; half an average is none."""
    runs = [_export(tmp_path / f"run-{i}", i) for i in range(2)]
    assert not is_average_of(tmp_path / "average", runs)
    average_exports(runs, tmp_path / "average")
    assert is_average_of(tmp_path / "average", runs) and not is_average_of(tmp_path / "average", runs[:1])
    _export(runs[1], 7.0)
    assert not is_average_of(tmp_path / "average", runs)
    average_exports(runs, tmp_path / "average")
    (tmp_path / "average" / "config.json").unlink()
    assert not is_average_of(tmp_path / "average", runs)


def test_models_of_other_sizes_are_not_averaged(tmp_path: Path) -> None:
    """Runs that build other models are refused by name."""
    runs = [_export(tmp_path / "run-0", 1.0), _export(tmp_path / "run-1", 1.0, width=3)]
    with pytest.raises(TrainingError, match=r"run-1: expected model as of .*run-0"):
        average_exports(runs, tmp_path / "average")
