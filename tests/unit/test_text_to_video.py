"""The generator's task: it learns four samples by heart, uses their text, and every draw of it is keyed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import flow, keyed
from training.config import TrainConfig, from_json_value, to_json_value
from training.data.batch import Batch
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.latents import LatentCodec, LatentScale, load_tae, measure_scale, read_export
from training.models import layers
from training.models.autoencoder import TAE, TAEConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import TransformerConfig, grow_positions
from training.tasks.flow_config import FlowConfig
from training.tasks.text_to_video import Asked, TextToVideoTask

CLIPS = ("a", "b", "c", "d")
CAPTIONS = ("a red square at the left", "green hills in the morning", "two blue birds", "a grey wall")
PROMPTS = dict(zip(CLIPS, CAPTIONS, strict=True))
CONFIG = FlowConfig(
    model=TransformerConfig(layers=2, width=48, ffn=96, heads=4, latent_channels=4, max_t=2, max_h=2, max_w=2, bytes_width=32),
    text=TextConfig(bytes_width=32, bytes_tokens=16),
    sampler=flow.SamplerConfig(steps=10, linear_steps=20, guidance=1.0),
)


def codec() -> LatentCodec:
    """A small autoencoder with keyed weights, its latents scaled on the test's pixels."""
    tae = TAE(TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=4))
    layers.initialise(tae, 0)
    return LatentCodec(tae, measure_scale(tae, pixels(9)), "f" * 64, memory_bytes=1 << 20)


def pixels(frames: int) -> Tensor:
    """Four clips (4, 3, frames, 32, 32) that are told apart at a glance."""
    levels = torch.tensor([[0.9, -0.8, -0.8], [-0.7, 0.8, -0.6], [-0.8, -0.5, 0.9], [0.0, 0.05, 0.0]])
    x = levels[:, :, None, None, None].expand(-1, -1, frames, 32, 32).clone()
    ramp = torch.linspace(-0.1, 0.1, 32)
    return x + ramp * torch.tensor([1.0, -1.0, 2.0, 0.5])[:, None, None, None, None]


def task(config: FlowConfig = CONFIG, prompts: dict[str, str] = PROMPTS, seed: int = 0, **changes: object) -> TextToVideoTask:
    """The task over the four clips."""
    return TextToVideoTask("t2v_test", config, seed, codec(), prompts, TextCache(load_encoders(config.text)), **changes)


def batch(x: Tensor, epoch: int = 0, clips: tuple[str, ...] = CLIPS) -> Batch:
    """The clips as one rank's batch."""
    return Batch(step=0, kind="video", pixels=x, clip_ids=clips, epochs=(epoch,) * len(clips))


def held(clip: str) -> Sample:
    """An index entry for the clip."""
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": clip}
    return Sample(clip_id=clip, kind="video", width=32, height=32, n_frames=9, fps_num=24, fps_den=1, **empty)


def train(model: torch.nn.Module, of: TextToVideoTask, x: Tensor, steps: int) -> list[float]:
    """Plain training; every step is a pass of its own, with new noise and times."""
    adamw, losses = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0), []
    for step in range(steps):
        loss = of.loss("transformer", {"transformer": model}, batch(x, step), x).total.mean()
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(float(loss))
    return losses


def validation(model: torch.nn.Module, of: TextToVideoTask, x: Tensor) -> float:
    """The mean of the first measure over the four clips."""
    with torch.no_grad():
        scores = [of.score(model, held(c), x[i : i + 1], torch.float32)[0] for i, c in enumerate(CLIPS)]
    return float(torch.stack(scores).mean())


@pytest.fixture(scope="module")
def learnt() -> tuple[torch.nn.Module, list[float], float]:
    """(model, losses, validation loss before) of 250 steps over four clips of 9 frames."""
    of, x = task(), pixels(9)
    model = of.module()
    before = validation(model, of, x)
    return model, train(model, of, x, 250), before


def test_four_samples_are_learnt_by_heart(learnt) -> None:
    """The loss at fixed times with fixed noise falls below a quarter, the training loss below a third."""
    model, losses, before = learnt
    assert sum(losses[-20:]) / 20 < sum(losses[:3]) / 9, losses[::25]
    assert validation(model, task(), pixels(9)) < before / 4


def test_the_text_is_used(learnt) -> None:
    """After learning, the loss with the right text is clearly below that with the others' text, and below that with none."""
    model, x = learnt[0], pixels(9)
    right = validation(model, task(), x)
    shuffled = task(prompts=dict(zip(CLIPS, CAPTIONS[1:] + CAPTIONS[:1], strict=True)))
    assert right < 0.7 * validation(model, shuffled, x)
    assert right < 0.9 * validation(model, task(prompts=dict.fromkeys(CLIPS, "")), x)


def test_samples_follow_their_text(learnt) -> None:
    """From the same noise, what is generated under each clip's text is nearer to that clip's latent than to any other's."""
    of, x = task(), pixels(9)
    truth = codec().encode(x)
    x_0 = keyed.normal(tuple(truth.shape[1:]), "noise").expand_as(truth)
    made = of.latents(learnt[0], x_0, Asked(truth, list(CAPTIONS)), torch.float32)
    distances = torch.stack([(made - z).square().flatten(1).mean(1) for z in truth], 1)
    assert distances.argmin(1).tolist() == [0, 1, 2, 3], distances
    shown = of.sample(learnt[0], held("a"), x[:1])
    assert shown.shape == x[:1].shape and float(shown.abs().max()) <= 1


def test_images_and_videos_share_the_model() -> None:
    """One frame and nine go through the same weights; a video's loss is over two latent frames, an image's over one."""
    of = task()
    model = of.module()
    for frames in (1, 9):
        loss = of.loss("transformer", {"transformer": model}, batch(pixels(frames)), pixels(frames))
        assert loss.total.shape == (4,) and torch.isfinite(loss.total).all()
        assert loss.bins is not None and loss.bins.shape == (4,) and int(loss.bins.max()) < CONFIG.time_bins


def test_draws_belong_to_the_clip_not_to_its_place() -> None:
    """A clip's loss does not depend on who else is in its batch, nor on its place; another pass or seed draws anew."""
    of, x = task(), pixels(9)
    model = train_a_little(of, x)
    with torch.no_grad():
        forward = of.loss("transformer", {"transformer": model}, batch(x), x).total
        backward = of.loss("transformer", {"transformer": model}, batch(x.flip(0), clips=CLIPS[::-1]), x.flip(0)).total
        other = of.loss("transformer", {"transformer": model}, batch(x, epoch=1), x).total
    assert torch.allclose(forward, backward.flip(0), rtol=1e-4)
    assert not torch.isclose(forward, other).any()


def train_a_little(of: TextToVideoTask, x: Tensor) -> torch.nn.Module:
    """A model whose output is not zero."""
    model = of.module()
    train(model, of, x, 2)
    return model


def test_dropped_text_is_the_empty_prompt() -> None:
    """With everything dropped, what the prompts say makes no difference; with nothing dropped it does. The graph is the same."""
    x = pixels(9)
    model = train_a_little(task(), x)
    for rate, same in ((0.999, True), (0.0, False)):
        config = dataclasses.replace(CONFIG, text_dropout=rate)
        with torch.no_grad():
            own, none = (
                task(config, p).loss("transformer", {"transformer": model}, batch(x), x).total for p in (PROMPTS, dict.fromkeys(CLIPS, ""))
            )
        assert torch.equal(own, none) == same


def test_validation_is_the_same_every_time() -> None:
    """The same draws at every measurement: two calls give the same bits, and every time has its own name."""
    of, x = task(), pixels(9)
    model = of.module()
    with torch.no_grad():
        first, second = (of.score(model, held("a"), x[:1], torch.float32) for _ in range(2))
    assert torch.equal(first, second) and first[0] == pytest.approx(float(first[1:].mean()), rel=1e-5)
    assert [m.format("") for m in of.measures] == ["loss", "loss_t10", "loss_t30", "loss_t50", "loss_t70", "loss_t90"]


def test_a_stage_begins_where_its_parent_was(learnt) -> None:
    """With grown positions the child's validation loss is its parent's: within 5 % was asked, extended tables give it exactly."""
    x = pixels(9)
    grown = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, max_t=4, max_h=4, max_w=4))
    child = task(grown, parent=learnt[0].state_dict())
    assert validation(child.module(), child, x) == pytest.approx(validation(learnt[0], task(), x), rel=1e-6)
    wider = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, width=64))
    with pytest.raises(TrainingError, match="expected a parent of the same sizes but for positions"):
        task(wider, parent=learnt[0].state_dict()).module()
    assert grow_positions(learnt[0].state_dict(), CONFIG.model, "stretch")["positions.h"].shape == (2, 48)


def test_latents_are_normalised_and_come_back() -> None:
    """Over the clips the scale was measured on, each channel has mean 0 and deviation 1; decoding undoes it."""
    made, x = codec(), pixels(9)
    z = made.encode(x)
    assert z.transpose(0, 1).flatten(1).mean(1).abs().max() < 1e-4 and (z.transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 0.01
    assert torch.allclose(made.decode(z, 9), made.tae(x)[0].clamp(-1, 1), atol=1e-5)


def test_remembered_latents_are_the_same() -> None:
    """Kept by the content of their pixels, latents are those of each clip alone, whatever the batch; other pixels have others."""
    made, x = codec(), pixels(9)
    once, again = made.encode(x), made.encode(x.flip(0))
    assert torch.equal(once, again.flip(0)) and torch.equal(made.encode(x[2:3])[0], once[2])
    assert not torch.equal(made.encode(x + 0.01), once)


def test_pictures_are_made_in_the_precision_of_the_pixels() -> None:
    """A sample of bfloat16 pixels leaves the autoencoder as it was: in float32 its decoder would take twice the memory."""
    of = task()
    model = of.module().to(torch.bfloat16)
    made = of.sample(model, held("a"), pixels(9)[:1].to(torch.bfloat16))
    assert {p.dtype for p in of._codec.tae.parameters()} == {torch.bfloat16} and made.shape == (1, 3, 9, 32, 32)


def test_flops_are_encoding_and_a_step() -> None:
    """Twice the clips are twice the work; an image costs less than a video; what was encoded beforehand is not counted."""
    of = task()
    assert 0 < of.flops((1, 3, 9, 32, 32), encoded=True) < of.flops((1, 3, 9, 32, 32))
    assert of.flops((2, 3, 9, 32, 32)) == 2 * of.flops((1, 3, 9, 32, 32)) > 4 * of.flops((1, 3, 1, 32, 32)) > 0


def test_an_export_is_read_whole_or_refused(tmp_path: Path) -> None:
    """Weights that do not have the digest in their description, another stage, and a missing folder are named."""
    from hashlib import sha256

    from safetensors.torch import save

    data = save(codec().tae.state_dict())
    described = {"stage": "tae", "sha256": sha256(data).hexdigest(), "model": dataclasses.asdict(codec().tae.config)}
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    (export / "weights.safetensors").write_bytes(data)
    (export / "config.json").write_text(json.dumps(described))
    tae, digest = load_tae(tmp_path / "run")
    assert digest == described["sha256"] and torch.equal(tae.encode(pixels(1)).mean, codec().tae.encode(pixels(1)).mean)
    with pytest.raises(TrainingError, match="expected the export of stage t2i"):
        read_export(export, "t2i")
    (export / "weights.safetensors").write_bytes(data[:-1] + b"x")
    with pytest.raises(TrainingError, match="expected SHA-256"):
        load_tae(export)
    with pytest.raises(TrainingError, match="expected the export of a finished run"):
        load_tae(tmp_path / "nowhere")


def test_wrong_surroundings_are_refused() -> None:
    """An autoencoder of other channels, encoders the model does not read, and a clip without a prompt are named."""
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: task(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, latent_channels=16))), "latent channels"),
        (lambda: task(dataclasses.replace(CONFIG, text=TextConfig(bytes_width=16))), "expected encoders of widths"),
        (lambda: task(prompts={}).score(task().module(), held("a"), pixels(1)[:1], torch.float32), "expected a prompt"),
    ]
    for make, message in cases:
        with pytest.raises(TrainingError, match=message):
            make()


def test_configuration_survives_json() -> None:
    """A generator's configuration comes back from JSON as it was; a stage is an autoencoder or has a flow, not both."""
    config = TrainConfig(stage="t2v_256", flow=CONFIG, data=DataConfig(size_px=32, resize_px=32))
    assert from_json_value(json.loads(json.dumps(to_json_value(config)))) == config
    for wrong in ({"stage": "tae", "flow": CONFIG}, {"stage": "t2i"}):
        with pytest.raises(ValueError, match="flow: expected none for stages"):
            TrainConfig(**wrong)
    assert LatentScale(mean=(0.0,), std=(1.0,)).std == (1.0,)
