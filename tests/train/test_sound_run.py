"""The stages of sound on CPU processes: the codec with its adversary, then a generator on it; killed, resumed, bit-equal; sound of its export."""

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from manifests.deny import deny
from pipelines.evaluate_models import Clips, EvaluateConfig, measure_models, subjects
from tests.sound_events import build_sound_dataset, draw_bounces, film_of_clip
from training import checkpoint
from training.conditions import load_prompts, measured_on
from training.config import TrainConfig
from training.data.config import DataConfig
from training.data.plan import Plan
from training.errors import TrainingError
from training.flow import SamplerConfig
from training.folder import read_run
from training.generation import MoviePipeline
from training.launch import train
from training.metrics import LOG, read_log
from training.models.codec import CodecConfig
from training.models.sound import SoundConfig
from training.models.spectral import mel_distance
from training.models.spectral_discriminator import SpectralDiscriminatorConfig
from training.models.text import TextConfig
from training.models.watching import WatchConfig
from training.onsets import agreement, heard_s, seen_s
from training.parallel.engine import EngineConfig, OptimConfig
from training.sound_generation import generate_sound, load_sound_maker
from training.tasks.make import make_task
from training.tasks.sound_config import CodecLossConfig, CodecStage, SoundStage
from training.validate import load_turn

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

CODEC = TrainConfig(
    stage="codec",
    seed=3,
    steps=6,
    processes=2,
    validate_every=6,
    checkpoint_every=1,
    keep=100,
    log_every=6,
    pictures=1,
    ema_decay=0.5,
    codec=CodecStage(
        model=CodecConfig(
            encoder_widths=(2, 8, 8), decoder_widths=(8, 8, 2), strides=(48, 40), dilations=(1,), hidden_width=8, latent_channels=4
        ),
        loss=CodecLossConfig(
            wave_weight=1.0,
            mel_weight=1.0,
            mel_windows=(256,),
            gan_weight=0.3,
            gan_start_step=2,
            discriminator=SpectralDiscriminatorConfig(windows=(256,), channels=4),
        ),
    ),
    data=DataConfig(sound_frames=20, n_frames=0, size_px=16, resize_px=16, global_batch=4, holdout_share=0.3, validate_clips=4),
    optim=OptimConfig(lr=2e-3, warmup_steps=2),
    adversary=OptimConfig(lr=1e-3),
    engine=EngineConfig(persistence_threshold=0, timeout_s=120),
)
FILMS = [dataclasses.replace(f, side_px=32) for f in draw_bounces(6, seed=2, seconds=2.0)]
SOUND = SoundStage(
    model=SoundConfig(layers=2, width=32, ffn=64, heads=2, text_width=16, video_width=8, latent_channels=4),
    text=TextConfig(bytes_width=16, bytes_tokens=12),
    watch=WatchConfig(grid=2),
    sampler=SamplerConfig(solver="midpoint", steps=2, linear_steps=2, guidance=2.0),
    quality=0.0,
)


def audio(codec: Path, **changes: object) -> TrainConfig:
    """The generator on the codec of this run."""
    sound = dataclasses.replace(SOUND, codec=str(codec))
    data = dataclasses.replace(CODEC.data, n_frames=5)
    return dataclasses.replace(CODEC, **{"stage": "audio", "codec": None, "sound": sound, "data": data} | changes)


def run(config: TrainConfig, dataset: Path, out: Path) -> None:
    """The run has reached its end."""
    lines: list[str] = []
    assert train(config, dataset, out, lines.append) == 0, "\n".join(lines[-60:])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six films of two seconds and no sound alone."""
    return build_sound_dataset(tmp_path_factory.mktemp("films"), FILMS)


@pytest.fixture(scope="module")
def codec(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished codec, with its adversary, on two processes."""
    out = tmp_path_factory.mktemp("codec")
    run(CODEC, films, out)
    return out


@pytest.fixture(scope="module")
def generator(films: Path, codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished generator on two processes."""
    out = tmp_path_factory.mktemp("audio")
    run(audio(codec), films, out)
    return out


def test_the_codec_s_log_tells_both_updates_and_what_is_heard(codec: Path) -> None:
    """From its start step on the adversary is heard; its own loss is logged from the first; SI-SDR comes first among the measures; a picture
    of spectrograms and sounds lie beside each measurement, and the export builds the codec again."""
    steps, measured = read_log(codec, "train"), read_log(codec, "validate")
    assert ["features" in s for s in steps] == [False, False, True, True, True, True]
    assert all(s["discriminator_loss"] > 0 and s["media"] == "audio" for s in steps)
    assert next(k for k in measured[0] if k not in ("kind", "step")) == "si_sdr_db" and {"mel", "ema_mel", "si_sdr_audio_db"} <= set(
        measured[0]
    )
    assert {p.suffix for p in (codec / "pictures").iterdir()} == {".png", ".flac", ".json"}
    exported = load_file(codec / "export" / "weights.safetensors")
    assert not any(name.startswith("discriminator") for name in exported) and "bottleneck.in_proj.weight" in exported


def test_the_generator_says_nothing_at_first_and_knows_its_prompts(generator: Path) -> None:
    """Before the first step its loss is that of no velocity; prompts are the captions, without a rate; the loss falls."""
    steps, measured = read_log(generator, "train"), read_log(generator, "validate")
    assert len(steps) == 6 and 1.2 < measured[0]["loss"] < 3.0 and measured[-1]["loss"] < measured[0]["loss"]
    assert set(load_prompts(generator).values()) == {"A ball bounces."}


@pytest.mark.parametrize("stage", ["codec", "audio"])
def test_killed_and_resumed_is_bit_equal(stage: str, films: Path, codec: Path, generator: Path, processes, tmp_path: Path) -> None:
    """kill -9 of a worker at a random moment; the same command ends with the same log and weights, bit for bit, the adversary's too."""
    seed = random.SystemRandom().randrange(1 << 32)
    draw = random.Random(seed)
    config, straight = (CODEC, codec) if stage == "codec" else (audio(codec), generator)
    out = tmp_path / "run"
    process, target = processes.start(config, films, out), draw.randint(1, 4)
    processes.wait_for(lambda: out.exists() and len(read_log(out, "train")) >= target and len(processes.workers(out)) >= 2, 300)
    time.sleep(draw.uniform(0, 0.3))
    if alive := processes.workers(out):
        os.kill(draw.choice(alive), signal.SIGKILL)
    process.wait(120)
    processes.wait_for(lambda: not processes.workers(out), 60)
    run(config, films, out)
    assert (out / LOG).read_bytes() == (straight / LOG).read_bytes(), f"seed {seed}"
    weights = "export/weights.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()
    assert len({checkpoint.list_complete(folder)[-1].exposure["rolling_digest"] for folder in (out, straight)}) == 1


def test_one_process_and_two_train_alike(films: Path, codec: Path, tmp_path: Path) -> None:
    """The codec's steps on one process are those on two, to the last digits that the order of sums moves."""
    run(dataclasses.replace(CODEC, processes=1, steps=3, checkpoint_every=3, validate_every=3), films, tmp_path)
    alone, together = (read_log(folder, "train")[:3] for folder in (tmp_path, codec))
    for a, b in zip(alone, together, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["mel"] == pytest.approx(b["mel"], rel=1e-4)
    assert [s["rolling_digest"] for s in alone] == [s["rolling_digest"] for s in together]


def test_a_codec_that_begins_as_a_linear_code(films: Path, tmp_path: Path) -> None:
    """On two processes, of which one has the code: the first measure, on films it was not fitted on, is what four numbers a block can tell; the record
    names the clips of the code, and none that is held out; a run that goes on does not begin anew."""
    model = dataclasses.replace(CODEC.codec.model, encoder_widths=(2, 48, 8), decoder_widths=(8, 48, 2))
    stage = dataclasses.replace(CODEC.codec, model=model, linear_clips=1)  # one clip of two seconds is cut as often as needed
    config = dataclasses.replace(CODEC, codec=stage, steps=1, validate_every=1)
    run(config, films, tmp_path / "linear")
    first = read_log(tmp_path / "linear", "validate")[0]["si_sdr_db"]
    assert first > 5 > 0 > read_log_first(films, config, tmp_path / "drawn")
    plan = Plan(config.plan_settings(0), read_run(tmp_path / "linear").samples)
    measured = measured_on(tmp_path / "linear")
    assert len(measured) == 1 and set(measured) <= {s.clip_id for s in plan.samples}
    run(dataclasses.replace(config, steps=2), films, tmp_path / "linear")
    assert [v["step"] for v in read_log(tmp_path / "linear", "validate")] == [0, 1, 2]
    assert read_log(tmp_path / "linear", "validate")[2]["si_sdr_db"] > 5


def read_log_first(films: Path, config: TrainConfig, out: Path) -> float:
    """The first measure of the same codec with weights drawn by key."""
    run(dataclasses.replace(config, codec=dataclasses.replace(config.codec, linear_clips=0)), films, out)
    return float(read_log(out, "validate")[0]["si_sdr_db"])


def test_exports_make_sound(codec: Path, generator: Path) -> None:
    """Codec and generator load from their runs and make finite samples of the length that is asked for; another codec is refused."""
    maker = load_sound_maker(codec, generator)
    assert maker.trained_frames == 20 and maker.shown_fps == pytest.approx(6.25) and maker.size_px == 16
    with torch.no_grad():
        sound = generate_sound(maker, torch.ones(30, 8), "A ball bounces.", 2.5, seed=0)
    assert sound.shape == (120_000,) and sound.dtype == np.float32 and bool(np.isfinite(sound).all())
    with pytest.raises(TrainingError, match="expected the export of stage codec, found audio"):
        load_sound_maker(generator, generator)


def test_other_surroundings_are_refused(films: Path, codec: Path, tmp_path: Path) -> None:
    """No codec, and a folder that is none, stop the run before it begins."""
    with pytest.raises(TrainingError, match=r"expected sound\.codec"):
        train(dataclasses.replace(audio(codec), sound=SOUND), films, tmp_path / "a")
    with pytest.raises(TrainingError, match="expected the export of a finished run"):
        train(audio(tmp_path), films, tmp_path / "b")


def test_an_evaluation_finds_what_the_runs_did(films: Path, codec: Path, generator: Path, tmp_path: Path) -> None:
    """On the held-out films: the codec's SI-SDR and mel distance and the generator's loss as their logs end; and how near the sound that is
    made for them is to their own, and that it begins, or not, with the bounces that are heard and seen."""
    found = read_run(generator)
    samples = Plan(found.config.plan_settings(0), found.samples).held_out[: found.config.data.validate_clips]
    clips = Clips(dataset=films, version=0, samples=samples)
    measured = {m.name: m for m in measure_models(MoviePipeline.from_folders([codec, generator]), clips, EvaluateConfig())}
    ends = {name: read_log(folder, "validate")[-1] for name, folder in (("codec", codec), ("audio", generator))}
    assert measured["codec SI-SDR, dB, videos"].value == pytest.approx(ends["codec"]["ema_si_sdr_db"], rel=1e-4)
    assert measured["codec mel distance, videos"].value == pytest.approx(ends["codec"]["ema_mel"], rel=1e-4)
    assert measured["audio loss, videos"].value == pytest.approx(ends["audio"]["ema_loss"], rel=1e-4)
    task, turns = make_task(found.config, generator), [load_turn(films, s, found.config.data) for s in samples]
    model = next(iter(task.modules().values()))
    model.load_state_dict(load_file(generator / "export" / "weights.safetensors"))
    with torch.no_grad():
        made = [task.sample(model, s, t.given(torch.device("cpu"), torch.float32))[0] for s, t in zip(samples, turns, strict=True)]
    apart = [float(mel_distance(m[None], t.beside["sound"][None])) for m, t in zip(made, turns, strict=True)]
    assert measured["audio mel distance, videos"].value == pytest.approx(float(np.mean(apart)), rel=1e-4)
    window_s = found.config.data.sound_frames / 25
    happened = [[b for b in film_of_clip(FILMS, s.clip_id).times_s if b < window_s - 0.05] for s in samples]
    pictures = [((t.pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy() for t in turns]
    events = {
        "the film's sound": ([heard_s(t.beside["sound"].numpy()) for t in turns], 0.12),
        "events seen": ([seen_s(p, 6.25) for p in pictures], 0.17),  # pictures are 0.16 s apart
    }
    for name, (times, within_s) in events.items():
        onsets = measured[f"audio onsets, F1 with {name}"]
        assert set(onsets.clips) == {s.clip_id for s, bounces in zip(samples, happened, strict=True) if bounces}
        told = [agreement(t, bounces, within_s) for t, bounces in zip(times, happened, strict=True) if bounces]
        assert np.mean(told) > 0.6, f"{name}: {times} for {happened}"  # what is found is what happened
        agreed = [agreement(heard_s(m.numpy()), t) for m, t in zip(made, times, strict=True) if t]
        assert onsets.value == pytest.approx(float(np.mean(agreed)), abs=1e-6)
    copy = shutil.copytree(films, tmp_path / "films")
    deny(copy, [samples[0].clip_id], 1)
    subject = subjects(MoviePipeline.from_folders([generator]))[0]
    left = dataclasses.replace(clips, dataset=copy).turns(subject, 9)
    assert [s.clip_id for s, _ in left] == [s.clip_id for s in samples[1:]]
