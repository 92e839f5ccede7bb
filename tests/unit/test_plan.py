"""A stage's outputs are found again only while all that they were made by is the same: settings, versions, and bytes of weights."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from curation.adapters.open_clip import OpenClipConfig
from curation.adapters.sscd import SscdConfig
from curation.adapters.transformers_captioner import LocalModelConfig
from curation.captions import CaptionConfig
from curation.speech import SpeechConfig
from pipelines import plan
from pipelines.config import load
from pipelines.settings import CurateConfig
from pipelines.stage import Stage
from pipelines.weight_files import by_content


@pytest.fixture(scope="module")
def config() -> CurateConfig:
    """The small configuration."""
    return load(CurateConfig, "curate", "tiny")


def changed(config: CurateConfig, override: str) -> set[str]:
    """The stages that an override of the configuration runs anew."""
    other = load(CurateConfig, "curate", "tiny", [override])
    return {s.name for s in plan.STAGES if s.digest(config) != s.digest(other)}


def test_copies_are_described_anew_where_borders_are_measured_otherwise(config: CurateConfig) -> None:
    """Hashes are of pictures without their borders: a setting of the border measure changes it, the hashes, and nothing else."""
    assert changed(config, "measures.borders.plain_levels=13") == {"measure-borders", "describe"}


@pytest.mark.parametrize("limit", ["min_sample_rate_hz", "max_sample_rate_hz", "max_channels"])
def test_limits_on_sound_choose_what_is_encoded(config: CurateConfig, limit: str) -> None:
    """Of a file with several sounds the first within the limits is encoded: other limits encode anew; limits that choose nothing do not."""
    assert "encode" in changed(config, f"scan.media.{limit}=8000")
    assert "encode" not in changed(config, "scan.media.max_wall_s=10") | changed(config, "scan.media.memory_bytes=1000000000")


@pytest.mark.parametrize("stage", [plan.SCAN, plan.SPLIT, *plan.MEASURE, *plan.BATCH, plan.CAPTION], ids=lambda s: s.name)
def test_another_way_to_probe_is_another_scan(config: CurateConfig, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What probing tells, a scan and all that follows from it take for granted: another version of it runs them anew."""
    before = stage.digest(config)
    monkeypatch.setattr(plan, "PROBE", dataclasses.replace(plan.PROBE, version="of tomorrow"))
    assert stage.digest(config) != before


def test_weights_count_by_their_bytes(tmp_path: Path, config: CurateConfig) -> None:
    """A file replaced in place, with the size and time of the other, runs its stage anew in a new process; the same bytes elsewhere do not."""
    weights, copy = tmp_path / "a.pt", tmp_path / "b.pt"
    weights.write_bytes(b"one")
    copy.write_bytes(b"one")
    stage = plan.stage_named("copies")
    at = [stage.digest(dataclasses.replace(config, sscd=SscdConfig(weights=str(p)))) for p in (weights, copy)]
    stat = weights.stat()
    other = tmp_path / "new"
    other.write_bytes(b"two")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(weights)
    assert at[0] == at[1] != stage.digest(dataclasses.replace(config, sscd=SscdConfig(weights=str(weights))))
    absent = SscdConfig(weights=str(tmp_path / "absent.pt"))
    assert by_content(absent) is absent


def test_every_kind_of_weights_is_seen(tmp_path: Path) -> None:
    """Heads, folders and the file of the speech detector count too, wherever they stand in the settings; names of models are names."""
    file, folder = tmp_path / "head.pt", tmp_path / "llava"
    file.write_bytes(b"x")
    (folder / ".cache").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"y")
    local: Any = by_content(CaptionConfig(local={"mine": LocalModelConfig(folder=str(folder))}))
    told = local.local["mine"].folder
    (folder / ".cache" / "lock").write_bytes(b"z")
    assert told.startswith("sha256:") and by_content(LocalModelConfig(folder=str(folder))).folder == told
    (folder / "config.json").write_bytes(b"{}")
    assert by_content(LocalModelConfig(folder=str(folder))).folder != told
    assert by_content(OpenClipConfig(model=str(file), head=str(file))).model == str(file)
    assert by_content(OpenClipConfig(head=str(file))).head.startswith("sha256:")
    assert by_content(SpeechConfig(model=str(file))).model.startswith("sha256:")
