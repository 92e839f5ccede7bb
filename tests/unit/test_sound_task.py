"""The generator of sound: size, shapes, which conditions it reads, what is dropped and hidden, and that it uses what it sees."""

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines import config as configuration
from training import flops, flow, keyed
from training.config import TrainConfig
from training.data.batch import Batch
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.latents import LatentScale
from training.models.codec import Codec, CodecConfig
from training.models.codec import initialise as initialise_codec
from training.models.sound import SoundConfig, SoundTransformer, initialise, rotations
from training.models.text import ByteText, TextConfig
from training.models.watching import PlainWatcher, WatchConfig, at_frames, load_watcher
from training.sound_generation import SoundMaker, continue_sound, generate_sound, plan_segments, watch
from training.sound_latents import SoundCodec
from training.tasks.sound import Asked, SoundTask, guided_velocity, sound_prompt
from training.tasks.sound_config import SoundStage
from training.tasks.task import Heard

CODEC = CodecConfig(encoder_widths=(2, 8, 8), decoder_widths=(8, 8, 2), strides=(48, 40), dilations=(1,), hidden_width=8, latent_channels=4)
MODEL = SoundConfig(layers=2, width=32, ffn=64, heads=2, text_width=16, video_width=8, latent_channels=4)
STAGE = SoundStage(
    model=MODEL,
    text=TextConfig(bytes_width=16, bytes_tokens=12),
    watch=WatchConfig(grid=2),
    sampler=flow.SamplerConfig(solver="midpoint", steps=4, linear_steps=4, guidance=2.0),
)
FRAMES = 20


def codec() -> SoundCodec:
    """A small codec with its initial weights."""
    network = Codec(CODEC)
    initialise_codec(network, 0)
    return SoundCodec(network, LatentScale(mean=(0.0,) * 4, std=(0.05,) * 4), memory_bytes=1 << 20)


def task(stage: SoundStage = STAGE, kind: type[SoundTask] = SoundTask, **changes: object) -> SoundTask:
    """The task of a stage, with prompts for eight clips."""
    prompts = {f"clip {i}": f"sound number {i}" for i in range(8)}
    given = {"codec": codec(), "watcher": PlainWatcher(2), "prompts": prompts, "texts": TextCache([ByteText(16, 12)])} | changes
    return kind("audio", stage, 5, FRAMES, **given)  # type: ignore[arg-type]


def moving(n: int) -> tuple[Tensor, Tensor]:
    """n sounds (n, N) whose level steps up half way or at another time of their own, and pictures that grow bright at that moment."""
    t = torch.arange(FRAMES * 1920) / 1920
    at = torch.linspace(3, 17, n)
    sound = 0.4 * torch.sin(2 * math.pi * 20 * t) * (t[None] > at[:, None])
    frames = (torch.arange(FRAMES)[None] >= at[:, None]).float() * 2 - 1
    return sound, frames[:, None, :, None, None].expand(n, 3, FRAMES, 8, 8)


def batch_of(sound: Tensor, frames: Tensor) -> Batch:
    """A batch of a stage of sound."""
    clips = tuple(f"clip {i}" for i in range(len(sound)))
    beside = {"sound": sound, "seen": torch.ones(len(sound), 1, dtype=torch.uint8)}
    return Batch(step=0, kind="audio", pixels=frames, clip_ids=clips, epochs=(0,) * len(sound), beside=beside)


def test_the_paper_preset_has_13_billion_parameters() -> None:
    """Built on the meta device from conf/train/audio/paper.yaml, within 5 %: 36 layers, 4608 and 18432."""
    config = configuration.load(TrainConfig, "train/audio", "paper")
    assert config.sound is not None
    with torch.device("meta"):
        model = SoundTransformer(config.sound.model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(13e9, rel=0.05)
    assert (config.sound.model.layers, config.sound.model.width, config.sound.model.ffn) == (36, 4608, 18432)


def drawn_model() -> SoundTransformer:
    """A model whose output is not zero."""
    model = SoundTransformer(MODEL)
    initialise(model, 1)
    model.output.weight.data.copy_(keyed.normal(tuple(model.output.weight.shape), "out") * 0.1)
    return model


def inputs(b: int = 2, t: int = 10) -> list[Tensor]:
    """What the model reads."""
    mask = torch.ones(b, 3, dtype=torch.bool)
    mask[0, 2] = False
    given = torch.zeros(b, t)
    given[:, :4] = 1
    x, video, tokens, context = (keyed.normal(s, "in", *s) for s in ((b, 4, t), (b, t, 8), (b, 3, 16), (b, 4, t, 1)))
    return [x, torch.linspace(0.2, 0.8, b), video, tokens, mask, context[..., 0], given]


@pytest.mark.parametrize("which", [0, 1, 2, 3, 5, 6], ids=["latents", "time", "video", "text", "context", "given"])
def test_every_input_is_read(which: int) -> None:
    """The velocity has the latents' shape and changes with each input; what is masked or not given changes nothing."""
    model, read = drawn_model(), inputs()
    before = model(*read)
    assert before.shape == (2, 4, 10)
    changed = [v.clone() for v in read]
    changed[which] = changed[which] * 0.5 + 0.1
    assert not torch.allclose(model(*changed), before)
    hidden = [v.clone() for v in read]
    hidden[3][0, 2] += 5.0  # behind the mask
    hidden[5][:, :, 4:] += 5.0  # where no sound is given
    torch.testing.assert_close(model(*hidden), before)


def test_positions_are_relative() -> None:
    """A shift in time of everything but the noise's own edges shifts the velocity: rotary positions know distances only, so windows at any
    place are alike."""
    turned = rotations(12, 8)
    q, k = keyed.normal((8,), "q"), keyed.normal((8,), "k")

    def dot(i: int, j: int) -> float:
        a, b = (torch.cat([v[:4] * c - v[4:] * s, v[:4] * s + v[4:] * c]) for v, (c, s) in ((q, turned[:, i]), (k, turned[:, j])))
        return float(a @ b)

    assert dot(2, 5) == pytest.approx(dot(7, 10), abs=1e-5) and abs(dot(2, 5) - dot(2, 6)) > 1e-3


def test_recomputing_changes_nothing() -> None:
    """Gradients are the same when layers are computed again in the backward pass."""
    grads = []
    for recompute in (False, True):
        model = drawn_model()
        model.recompute = recompute
        model(*inputs()).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_the_formula_counts_what_torch_counts() -> None:
    """Forward and backward, within 3 %."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = SoundTransformer(MODEL)
        read = [v.to("meta") for v in inputs(t=50)]
    counter = FlopCounterMode(display=False)
    with counter:
        model(*read).sum().backward()
    assert counter.get_total_flops() == pytest.approx(2 * flops.sound_step(MODEL, 50, 3), rel=0.03)


def test_features_are_those_of_the_nearest_earlier_frame() -> None:
    """At 25 a second, each latent frame has the last picture that was shown when it begins; none gives zeros."""
    series = torch.arange(4.0)[None, :, None]
    assert at_frames(series, 10)[0, :, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert at_frames(series, 3)[0, :, 0].tolist() == [0, 1, 2]
    assert not at_frames(series[:, :0], 5).any()


def test_the_watcher_sees_change() -> None:
    """Of a still film only the picture is seen; where a patch turns bright, that cell changes at that frame and no other."""
    frames = torch.full((1, 3, 5, 8, 8), -0.5)
    frames[:, :, 3:, :4, :4] = 0.5
    seen = PlainWatcher(2).watch(frames)[0]
    assert seen.shape == (5, 8)
    change = seen[:, 4:]
    assert change.nonzero().tolist() == [[3, 0]] and seen[2, 0] < 0 < seen[3, 0]
    assert PlainWatcher(2).key != PlainWatcher(3).key


def test_metaclips_image_tower_is_read_from_a_folder(tmp_path: Path) -> None:
    """An open_clip folder gives the tower's own embedding of each frame, normalised; pickles and foreign weights are refused."""
    open_clip = pytest.importorskip("open_clip")
    import json

    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    described = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    whole = open_clip.CLIP(8, vision, text).eval()
    save_file(whole.state_dict(), tmp_path / "open_clip_model.safetensors")
    watcher = load_watcher(WatchConfig(metaclip=str(tmp_path)))
    frames = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(1, 2, 3, 32, 32).transpose(1, 2)
    seen = watcher.watch(frames)
    assert seen.shape == (1, 2, 8) and seen.norm(dim=2).flatten().tolist() == pytest.approx([8**0.5] * 2, rel=1e-4)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
    with torch.no_grad():
        wanted = whole.visual(((frames[0].transpose(0, 1) + 1) / 2 - mean) / std)
    torch.testing.assert_close(seen[0], torch.nn.functional.normalize(wanted, dim=1) * 8**0.5, rtol=1e-3, atol=1e-3)
    (tmp_path / "open_clip_model.safetensors").unlink()
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(TrainingError, match="pickles are not read"):
        load_watcher(WatchConfig(metaclip=str(tmp_path))).watch(frames)


def test_conditions_are_dropped_and_sound_hidden_as_often_as_asked() -> None:
    """Over many passes: everything is dropped in a fifth; of the others a tenth has no text and a tenth no pictures; half is given no sound,
    the others at most a quarter of it, at the beginning, at the end or around the middle. The same key gives the same."""
    made = task()
    sound, frames = moving(1)
    heard = Heard(sound, frames, torch.ones(1, 1))
    n, counts = 1000, {"all": 0, "text": 0, "video": 0, "full": 0, "before": 0, "after": 0, "around": 0}
    for epoch in range(n):
        _, asked = made.asked(heard, ["clip 0"], [(5, "audio", "clip 0", epoch)])
        no_text, no_video, given = not asked.prompts[0], not asked.video.any(), asked.given[0]
        counts["all"] += no_text and no_video
        counts["text"] += no_text and not no_video
        counts["video"] += no_video and not no_text
        assert float(given.mean()) <= 0.25
        counts["full"] += not given.any()
        if given.any():
            counts["after" if not given[0] else "before" if not given[-1] else "around"] += 1
    assert counts["all"] / n == pytest.approx(0.2 + 0.8 * 0.01, abs=0.06)
    assert counts["text"] / n == pytest.approx(0.072, abs=0.045) and counts["video"] / n == pytest.approx(0.072, abs=0.045)
    assert counts["full"] / n > 0.5 and min(counts["before"], counts["after"], counts["around"]) > 0.03 * n
    again = made.asked(heard, ["clip 0"], [(5, "audio", "clip 0", 3)])[1]
    once = made.asked(heard, ["clip 0"], [(5, "audio", "clip 0", 3)])[1]
    assert torch.equal(again.given, once.given) and again.prompts == once.prompts


def test_sound_without_pictures_is_as_dropped_pictures() -> None:
    """A clip that has none gives zeros, and black frames that stand for none are not looked at."""
    sound, frames = moving(2)
    asked = task().asked(Heard(sound, frames, torch.tensor([[1], [0]])), ["clip 0", "clip 1"], None)[1]
    assert asked.video[0].any() and not asked.video[1].any() and not asked.given.any()


def test_a_model_that_does_not_fit_its_surroundings_is_refused() -> None:
    """Widths of codec, watcher and text are compared with the model's, by name."""
    for changes, message in (
        ({"watcher": PlainWatcher(3)}, "expected 8 features of a frame as the model reads, found 18"),
        ({"texts": TextCache([ByteText(8, 12)])}, "widths of one text encoder"),
    ):
        with pytest.raises(TrainingError, match=message):
            task(**changes)
    with pytest.raises(TrainingError, match="expected a parent with these sizes"):
        task(parent={"frames.weight": torch.zeros(1)}).module()


def test_four_samples_are_learnt_with_their_pictures() -> None:
    """Trained on four sounds that begin when their pictures turn bright, the loss falls well below saying nothing, and is lower with the right
    pictures than with another's, for every sample; a batch's losses are those of its samples alone."""
    made, (sound, frames) = task(), moving(4)
    model = made.module()
    engines = {"sound": model}
    clips = [f"clip {i}" for i in range(4)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0)
    with torch.no_grad():
        first = made.errors_at(model, Heard(sound, frames, torch.ones(4, 1)), clips, torch.float32)[:, 0].mean()
    for step in range(150):
        batch = batch_of(sound, frames)
        batch = Batch(step=step, kind="audio", pixels=batch.pixels, clip_ids=batch.clip_ids, epochs=(step,) * 4, beside=batch.beside)
        optimiser.zero_grad()
        made.loss("sound", engines, batch, frames).total.mean().backward()
        optimiser.step()
    with torch.no_grad():
        right = made.errors_at(model, Heard(sound, frames, torch.ones(4, 1)), clips, torch.float32)[:, 0]
        wrong = made.errors_at(model, Heard(sound, frames.roll(2, 0), torch.ones(4, 1)), clips, torch.float32)[:, 0]
    assert float(right.mean()) < 0.6 * float(first) and bool((right < wrong).all())
    batch = batch_of(sound, frames)
    with torch.no_grad():
        whole = made.loss("sound", engines, batch, frames)
        alone = made.loss("sound", engines, batch.part(slice(2, 3)), frames[2:3])
    torch.testing.assert_close(alone.total, whole.total[2:3], rtol=1e-4, atol=1e-5)
    assert whole.bins is not None and int(whole.bins.max()) < 4


def maker() -> SoundMaker:
    """A maker of an untrained model, whose window is 0.8 s."""
    return SoundMaker(
        model=drawn_model(), codec=codec(), texts=TextCache([ByteText(16, 12)]), watcher=PlainWatcher(2), stage=dataclasses.replace(STAGE, quality=7.0),
        trained_frames=FRAMES, shown_frames=10, size_px=8, device=torch.device("cpu"),
    )  # fmt: skip


def test_what_fits_is_made_at_once() -> None:
    """Up to one and a half windows, sound is what plain sampling gives from the same noise; another seed gives another, the same the same."""
    made = maker()
    with torch.no_grad():
        sound = generate_sound(made, None, "rain", 1.2, seed=3)
        assert len(sound) == 57_600 and not (sound != generate_sound(made, None, "rain", 1.2, seed=3)).any()
        assert (sound != generate_sound(made, None, "rain", 1.2, seed=4)).any()
        x_0, t = keyed.normal((1, 4, 30), "sound/v1", 3), task()
        asked = t.asked(Heard(torch.zeros(1, 30 * 1920), torch.zeros(1, 3, 0, 8, 8), torch.zeros(1, 1)), [""], None)[1]
        asked = asked._replace(prompts=[sound_prompt("rain", 7.0)], context=torch.zeros(1, 4, 30))
        plain = flow.solve(guided_velocity(made.model, made.texts, asked, 2.0, torch.float32), x_0, made.stage.sampler)
        torch.testing.assert_close(torch.from_numpy(sound), made.codec.decode(plain)[0])


@pytest.mark.parametrize("extension", ["windows", "segments"])
def test_sound_of_any_length(extension) -> None:
    """Several windows give as many samples as asked for, finite, and what is seen late changes the sound there and not long before."""
    made = maker()
    frames = torch.zeros(3, 48, 8, 8)
    frames[:, 40:] = 1.0
    with torch.no_grad():
        seen, still = watch(made, frames, 12.0), watch(made, torch.zeros(3, 48, 8, 8), 12.0)
        assert seen.shape == (100, 8) and torch.equal(seen[:80], still[:80]) and seen[90:].any()
        with_it, without = (generate_sound(made, f, "", 4.0, seed=1, extension=extension) for f in (seen, still))
    assert len(with_it) == 192_000 and bool(torch.from_numpy(with_it).isfinite().all())
    changed = torch.from_numpy(abs(with_it - without)).view(-1, 1920).amax(1)
    assert float(changed[:24].max()) < 1e-5 < 1e-4 < float(changed[84:].max())


def test_the_codec_is_the_same_whatever_it_was_given() -> None:
    """Encoding and decoding bfloat16 leave the frozen weights bit for bit: what is encoded does not depend on what was before."""
    network = Codec(CODEC)
    initialise_codec(network, 0)
    plain = SoundCodec(network, LatentScale(mean=(0.0,) * 4, std=(0.05,) * 4))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    sound, _ = moving(1)
    first = plain.encode(sound)
    rounded = plain.encode(sound.bfloat16())
    plain.decode(first.bfloat16())
    assert first.dtype == rounded.dtype == torch.float32
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert torch.equal(plain.encode(sound), first) and torch.equal(rounded, plain.encode(sound.bfloat16().float()))


def test_targets_do_not_know_the_engine_s_precision() -> None:
    """Under bfloat16 the latents, the pictures' features and so what is asked are those of float32, to the bit."""
    found = []

    class Recording(SoundTask):
        def asked(self, *given: Any) -> tuple[Tensor, Asked]:
            found.append(super().asked(*given))
            return found[-1]

    sound, frames = moving(2)
    frames = frames * 0.3  # which bfloat16 rounds
    made, model = task(kind=Recording), SoundTransformer(MODEL)
    initialise(model, 1)
    for dtype in (torch.float32, torch.bfloat16):
        made.loss("sound", {"sound": model.to(dtype)}, batch_of(sound, frames), frames.to(dtype))
    (x_1, wide), (rounded, narrow) = found
    assert torch.equal(x_1, rounded) and torch.equal(wide.video, narrow.video) and torch.equal(wide.given, narrow.given)


@pytest.mark.parametrize("shown_fps", [12.5, 16.0])
def test_a_film_is_watched_in_step(shown_fps: float) -> None:
    """Over 10.05 s, which is no whole number of pictures, each latent frame has the last picture shown when it begins, and the last ones
    the last picture; a maker that was shown none gives zeros."""
    frames = 250
    made = dataclasses.replace(maker(), trained_frames=frames, shown_frames=round(frames * shown_fps / 25))
    film = torch.linspace(-1, 1, 201)[None, :, None, None].expand(3, 201, 8, 8)  # 20 a second
    seen = watch(made, film, 20.0)
    assert seen.shape == (251, 8)
    count = math.floor(10.05 * shown_fps)
    for i in range(251):
        k = min(count - 1, math.floor(i / 25 * shown_fps + 1e-6))
        assert float(seen[i, 0]) == pytest.approx(-1 + 2 * math.floor(k / shown_fps * 20 + 1e-6) / 200, abs=1e-5), i
    blind = watch(dataclasses.replace(made, shown_frames=0), film, 20.0)
    assert blind.shape == (251, 8) and not blind.any()


@pytest.mark.parametrize("length", [1010, 1251, 1760])
def test_segments_make_most_of_themselves(length: int) -> None:
    """Segments of at most 40 s follow on one another without a gap to the end, and none is given much more than a quarter of itself."""
    plan = plan_segments(length, 1000, 250)
    assert plan[0][0] == 0 and plan[-1][1] == length and max(end - start for start, end in plan) <= 1000
    for (_, done), (start, end) in pairwise(plan):
        assert start < done < end and (done - start) / (end - start) <= 0.255


def test_segments_of_any_length_fit() -> None:
    """For every length and small windows, each segment goes on from the one before and is no longer than the window."""
    for size, overlap in ((2, 1), (26, 6), (333, 83)):
        for length in range(1, 800):
            plan = plan_segments(length, size, overlap)
            assert plan[0][0] == 0 and plan[-1][1] == length and all(0 < end - start <= size for start, end in plan)
            assert all(0 <= start < done < end for (_, done), (start, end) in pairwise(plan))


def test_given_sound_is_kept() -> None:
    """Continuing and filling in leave what is given sample for sample, and make the rest."""
    made = maker()
    sound = 0.3 * torch.sin(torch.arange(FRAMES * 1920) / 20)
    given = torch.zeros(len(sound), dtype=torch.bool)
    given[: 5 * 1920] = given[-4 * 1920 :] = True
    with torch.no_grad():
        full = torch.from_numpy(continue_sound(made, sound, given, None, "a hum", seed=0))
    assert torch.equal(full[given], sound[given])
    assert continue_sound(made, sound, given, torch.ones(7, 8), "", seed=0).shape == sound.shape, "pictures that end before the sound"
    assert not torch.allclose(full[~given], sound[~given], atol=1e-3)
    with pytest.raises(ValueError, match="expected at most 30 latent frames, found 40"):
        continue_sound(made, sound.repeat(2), given.repeat(2), None, "", seed=0)


def test_quality_stands_in_the_prompt() -> None:
    """A measured quality is said before the caption, to a tenth; without one the caption stands alone."""
    assert sound_prompt("A door shuts.", 7.46) == "Quality 7.5. A door shuts." and sound_prompt("A door shuts.", None) == "A door shuts."
    assert sound_prompt("", 8.0) == "Quality 8.0."


@pytest.mark.parametrize("stage", ["codec", "audio", "audio_sft"])
@pytest.mark.parametrize("name", ["paper", "h200", "tiny"])
def test_every_preset_of_sound_binds_and_comes_back(stage: str, name: str) -> None:
    """Each preset is a stage of sound whose codec has 25 latents a second, and reads back from a run's JSON as it was."""
    import json

    from training.config import from_json_value, to_json_value

    config = configuration.load(TrainConfig, f"train/{stage}", name)
    assert config.hears and config.plan_settings(0).sound_frames == config.data.sound_frames > 0
    assert from_json_value(json.loads(json.dumps(to_json_value(config)))) == config
    if config.codec:
        assert config.codec.model.hop == 1920 and config.codec.model.latent_channels == 128
    if config.sound and stage == "audio_sft":
        assert config.optim.final_lr_share == pytest.approx(1e-4)
        assert config.sound.model == configuration.load(TrainConfig, "train/audio", name).sound.model


def test_stages_of_sound_and_of_pictures_are_told_apart() -> None:
    """Pictures where sound is asked for, sound where pictures are, and two things in one stage are refused by name."""
    audio, codec = (configuration.load(TrainConfig, f"train/{s}", "tiny") for s in ("audio", "codec"))
    for made, changes, message in (
        (audio, {"stage": "t2v"}, "expected a stage whose name begins with audio"),
        (codec, {"sound": audio.sound}, "expected one of flow, codec and sound"),
        (codec, {"data": dataclasses.replace(codec.data, sound_frames=0, n_frames=8)}, "sound_frames: expected above 0"),
        (codec, {"data": dataclasses.replace(codec.data, n_frames=4)}, "n_frames 0"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(made, **changes)
