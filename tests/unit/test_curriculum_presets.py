"""The paper's curriculum and that of one large GPU begin on what their own curations make of good material."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from curation.buckets import assign_set
from pipelines import config, curriculum
from pipelines.curriculum import Datasets
from pipelines.settings import CurateConfig
from training.data.index import Sample

MEASURED = {
    "text_score": 0.1, "border_share": 0.0, "aesthetic": 6.0, "motion": 4.0, "motion_vector_px": 2.0, "shots_per_s": 0.1, "shake": 0.05,
    "camera_confidence": 0.9, "effective_resolution": 0.9, "blockiness": 0.1, "static_fraction": 0.1, "silence_fraction": 0.0,
    "diegetic_score": 1.0, "voice_score": 0.0, "singing_score": 0.0, "has_people": 1, "single_face": 1, "identity_agreement": 0.9,
    "face_share": 0.05, "picks": "",
}  # fmt: skip
ALONE = {"has_people": 0, "single_face": 0, "aesthetic": 5.0}
SPOKEN = {"voice_score": 0.9, **ALONE}
CLIPS: list[dict[str, Any]] = [
    {"kind": "image", "width": 2000, "height": 1500},
    {"kind": "image", "width": 400, "height": 300},
    {"kind": "video", "width": 1920, "height": 1080},
    {"kind": "video", "width": 1920, "height": 1080, "picks": "personal_sft=yes"},
    {"kind": "video", "width": 1920, "height": 1080, **ALONE},
    {"kind": "video", "width": 1920, "height": 1080, "picks": "sft=yes,audio_cinematic=yes", **ALONE, "aesthetic": 6.0},
    {"kind": "video", "width": 1280, "height": 720, "motion": 1.0, **ALONE},
    {"kind": "video", "width": 1280, "height": 720, **SPOKEN, "aesthetic": 3.0},
    {"kind": "audio", "width": None, "height": None},
]


def curated(name: str) -> list[Sample]:
    """What conf/curate/<name>.yaml makes of three files of each kind of clip, each 16 seconds long."""
    sets = list(config.load(CurateConfig, "curate", name, []).sets.values())
    samples = []
    for number, values in enumerate(values for values in CLIPS for _ in range(3)):
        clip = SimpleNamespace(**{**MEASURED, **values, "start_us": 0, "end_us": 16_000_000})
        found = assign_set(clip, sets)
        if found.set_name is None or found.fit.bucket is None:
            continue
        bucket, audio = found.fit.bucket, clip.kind == "audio"
        samples.append(
            Sample(
                clip_id=f"{number:032x}", clip_no=number, kind=clip.kind, set_name=found.set_name, bucket=bucket.name, shard_path="a.tar",
                offset=512, size_bytes=9, sha256=bytes(32), width=bucket.width, height=bucket.height, n_frames=bucket.n_frames,
                fps_num=found.fit.fps_num, fps_den=found.fit.fps_den, group=f"{number}", has_sound=clip.kind != "image",
                sound_us=16_000_000 if audio else round((bucket.seconds or 0) * 1e6) or None,
            )
        )  # fmt: skip
    return samples


@pytest.mark.parametrize("preset", ["paper", "h200"])
def test_every_stage_has_clips_of_its_own_curation(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of good files `curate/paper` fills every set that a stage names, `curate/hd` and `curate/audio` the others', also the clips that are
    edited before edit_3: nothing stands in the way of any stage. With the main dataset alone the stages that lack one say so."""
    contents = {Path(n): curriculum._Content(0, curated(n), captioned=True) for n in ("paper", "hd", "audio")}
    monkeypatch.setattr(curriculum, "_content", lambda folder, release: contents[folder])
    loaded = curriculum.load_curriculum("movie_gen", preset, [])
    named = {n: Path(n) for n in ("hd", "audio")}
    assert curriculum.check(loaded, Datasets(main=Path("paper"), named=named)) == []
    problems = curriculum.check(loaded, Datasets(main=Path("paper")))
    assert {p.split(":")[0] for p in problems} == {"upsampler", "codec", "audio", "audio_sft"}
    assert "upsampler: paper: data.sets: expected clips of hd, found only those of" in problems[0]


def test_large_pictures_are_learnt_from_large_pictures() -> None:
    """No stage of 768 or 1024 pixels takes the set whose pictures are stored at 256, nor videos of it."""
    small = {"image", "low_res"}
    sizes = {s.set_name: min(s.width, s.height) for s in curated("paper") if s.width and s.height}
    assert all(sizes[name] < 400 for name in small) and all(size >= 576 for name, size in sizes.items() if name not in small)
    for stage in ("t2v_768", "video_sft", "personal_1", "personal_2", "personal_3", "edit_1", "edit_2"):
        for preset in ("paper", "h200"):
            from training.config import TrainConfig

            data = config.load(TrainConfig, f"train/{stage}", preset, []).data
            assert data.sets and (data.size_px < 512 or not small & set(data.sets)), (stage, preset)


def test_the_named_towers_are_public_ones() -> None:
    """Widths that the presets give the three users of MetaCLIP are those of the public sizes that their folders are named after: text of bigG; of
    H pictures' tokens for a person, and features of frames for sound."""
    import open_clip

    from training.config import TrainConfig

    large, huge = open_clip.get_model_config("ViT-bigG-14-quickgelu"), open_clip.get_model_config("ViT-H-14-quickgelu")
    stages = {path.parent.name for path in Path(config.CONF, "train").glob("*/paper.yaml")}
    for stage, preset in ((s, p) for s in sorted(stages) for p in ("paper", "h200")):
        found = config.load(TrainConfig, f"train/{stage}", preset, [])
        if found.flow and found.flow.text.metaclip:
            assert found.flow.text.metaclip == "weights/metaclip-bigg" and found.flow.model.metaclip_width == large["text_cfg"]["width"]
        if found.flow and found.flow.personal:
            tower = found.flow.personal.tower
            assert found.flow.personal.weights == "weights/metaclip-h"
            assert (tower.width, tower.layers) == (huge["vision_cfg"]["width"], huge["vision_cfg"]["layers"])
        if found.sound:
            assert found.sound.watch.metaclip == "weights/metaclip-h" and found.sound.model.video_width == huge["embed_dim"]
