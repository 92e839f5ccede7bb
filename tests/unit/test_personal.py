"""The tower of a person's picture, and the stages that read it: weights of public layout, frozen and trained parts, whose picture is used."""

import dataclasses
import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.conditions import trained_on
from pipelines import config as settings
from training import keyed
from training.config import TrainConfig
from training.data.batch import Batch
from training.data.beside import Partners, load_reference
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.flow import SamplerConfig
from training.identity import PersonalConfig
from training.latents import LatentCodec, measure_scale
from training.models import layers, vision
from training.models.autoencoder import TAE, TAEConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import TransformerConfig
from training.models.vision import PersonalTransformer, Tower, TowerConfig
from training.tasks.flow_config import FlowConfig
from training.tasks.personal import PersonalTask
from training.tasks.text_to_video import TextToVideoTask
from training.validate import HeldOut, Turn, measure

CLIPS = ("a", "b", "c", "d")
PROMPTS = dict.fromkeys(CLIPS, "somebody walks by")
TOWER = TowerConfig(image_px=16, patch_px=8, width=32, layers=2, heads=4, mlp=64, side=2)
MODEL = TransformerConfig(
    layers=2, width=48, ffn=96, heads=4, latent_channels=4, max_t=2, max_h=2, max_w=2, bytes_width=32, identity_width=32
)
CONFIG = FlowConfig(
    model=MODEL,
    text=TextConfig(bytes_width=32, bytes_tokens=16),
    sampler=SamplerConfig(steps=10, linear_steps=20, guidance=1.0),
    personal=PersonalConfig(tower=TOWER),
)


def pixels(frames: int = 9) -> Tensor:
    """Four clips (4, 3, frames, 32, 32) that are told apart at a glance."""
    levels = torch.tensor([[0.9, -0.8, -0.8], [-0.7, 0.8, -0.6], [-0.8, -0.5, 0.9], [0.0, 0.05, 0.0]])
    return (levels[:, :, None, None, None].expand(-1, -1, frames, 32, 32) + torch.linspace(-0.1, 0.1, 32)).clamp(-1, 1)


def faces() -> Tensor:
    """The four clips' pictures, (4, 3, 16, 16), 0 to 255: stripes, of other colours than the clips."""
    waves = torch.stack([torch.sin(torch.arange(16) * f) for f in (0.4, 0.9, 1.5, 2.2)])
    colours = torch.tensor([[1.0, 0.2, 0.5], [0.1, 0.8, 0.9], [0.6, 0.6, 0.1], [0.9, 0.3, 0.9]])
    return ((waves[:, None, None, :] * colours[:, :, None, None] + 1) * 127.5).expand(-1, -1, 16, -1).to(torch.uint8)


@lru_cache
def codec() -> LatentCodec:
    """A small autoencoder with keyed weights, its latents scaled on the test's pixels."""
    tae = TAE(TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=4))
    layers.initialise(tae, 0)
    return LatentCodec(tae, measure_scale(tae, pixels()), "f" * 64, memory_bytes=1 << 20)


def task(config: FlowConfig = CONFIG, kind: type[TextToVideoTask] = PersonalTask, **changes: object) -> TextToVideoTask:
    """The task over the four clips, which all have the same text."""
    return kind("personal_test", config, 0, codec(), PROMPTS, TextCache(load_encoders(config.text)), **changes)


def with_personal(**changes: object) -> FlowConfig:
    """The configuration with other parts that train."""
    return dataclasses.replace(CONFIG, personal=PersonalConfig(tower=TOWER, **changes))


def batch(x: Tensor, step: int = 0, shown: Tensor | None = None) -> Batch:
    """The clips as one rank's batch, each with its person's picture or another."""
    reference = faces() if shown is None else shown
    return Batch(step=step, kind="video", pixels=x, clip_ids=CLIPS, epochs=(step,) * 4, beside={"reference": reference})


def train(model: torch.nn.Module, of: TextToVideoTask, steps: int) -> None:
    """Plain training of all parameters that have a gradient."""
    x, adamw = pixels(), torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        loss = of.loss("transformer", {"transformer": model}, batch(x, step), x).total.mean()
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()


def validation(model: torch.nn.Module, of: TextToVideoTask, shown: Tensor) -> float:
    """The mean of the first measure over the four clips, under these pictures."""
    of.held = {c: {"reference": shown[i : i + 1]} for i, c in enumerate(CLIPS)}
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": "g"}
    samples = [Sample(clip_id=c, kind="video", width=32, height=32, n_frames=9, fps_num=24, fps_den=1, **empty) for c in CLIPS]
    with torch.no_grad():
        scores = [of.score(model, s, pixels()[i : i + 1], torch.float32)[0] for i, s in enumerate(samples)]
    return float(torch.stack(scores).mean())


@pytest.fixture(scope="module")
def learnt() -> tuple[PersonalTransformer, float]:
    """(model, loss before) of 220 steps, the tower trained too."""
    of = task(with_personal(train_tower=True))
    model = of.module()
    assert isinstance(model, PersonalTransformer)
    before = validation(model, of, faces())
    train(model, of, 220)
    return model, before


def test_four_people_are_learnt_by_their_pictures(learnt) -> None:
    """All four clips have the same text: the loss with each one's own picture falls below a third, and is less than half of that with
    another's."""
    model, before = learnt
    right, wrong = (validation(model, task(), shown) for shown in (faces(), faces().roll(1, 0)))
    assert right < before / 3 and right < wrong / 2, (before, right, wrong)


def test_samples_follow_the_picture(learnt) -> None:
    """From the same noise, what is generated under each picture is nearer to that person's clip than to any other's."""
    of, x = task(), pixels()
    asked = of.asked(x, CLIPS, [("k", c) for c in CLIPS], batch(x))
    x_0 = keyed.normal(tuple(asked.x_1.shape[1:]), "noise").expand_as(asked.x_1)
    made = of.latents(learnt[0], x_0, asked, torch.float32)
    distances = torch.stack([(made - z).square().flatten(1).mean(1) for z in asked.x_1], 1)
    assert distances.argmin(1).tolist() == [0, 1, 2, 3], distances


def test_a_frozen_tower_has_no_gradient_and_a_trained_one_has() -> None:
    """Gradients reach the tower only where it is trained; `learns` names what may move: tower, transformer, or the projection alone."""
    x = pixels()
    for trained in (False, True):
        of = task(with_personal(train_tower=trained))
        model = of.module()
        train(model, of, 1)  # the output begins as zero, and nothing behind it has a gradient before it has moved
        of.loss("transformer", {"transformer": model}, batch(x), x).total.mean().backward()
        seen = [p.grad is not None and bool(p.grad.any()) for p in model.tower.parameters()]
        assert all(seen) if trained else not any(seen)
        assert model.learns("tower.patches.weight") == trained and model.learns("blocks.0.bias")
    still = task(with_personal(train_backbone=False)).module()
    assert {n for n, _ in still.named_parameters() if still.learns(n)} == {
        f"text.identity.{n}" for n in ("linear.weight", "linear.bias", "norm.weight", "norm.bias")
    }


def test_parents_are_text_to_video_exports_and_its_own() -> None:
    """A text-to-video export is a parent, and so is a stage's own export, whose tower it keeps; another tower is refused."""
    plain = dataclasses.replace(CONFIG, personal=None, model=dataclasses.replace(MODEL, identity_width=0))
    parent = task(plain, TextToVideoTask).module().state_dict()
    child = task(parent=parent).module()
    assert all(torch.equal(child.state_dict()[n], v) for n, v in parent.items())
    with torch.no_grad():
        child.tower.first.add_(1.0)
    grandchild = task(parent=child.state_dict()).module()
    assert all(torch.equal(v, child.state_dict()[n]) for n, v in grandchild.state_dict().items())
    other = with_personal()
    other = dataclasses.replace(other, personal=PersonalConfig(tower=dataclasses.replace(TOWER, layers=3)))
    with pytest.raises(TrainingError, match="expected a parent of the same sizes"):
        task(other, parent=child.state_dict()).module()


def open_clip_folder(folder: Path) -> torch.nn.Module:
    """A small CLIP of open_clip's own making in the folder; gives its vision tower."""
    import open_clip

    vision_cfg = {"image_size": 16, "layers": 2, "width": 32, "head_width": 8, "mlp_ratio": 2.0, "patch_size": 8}
    text_cfg = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.model.CLIP(embed_dim=24, vision_cfg=vision_cfg, text_cfg=text_cfg, quick_gelu=True).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.2 * keyed.normal(tuple(parameter.shape), "open_clip", name))
    save_file({n: v.contiguous() for n, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    described = {"embed_dim": 24, "vision_cfg": vision_cfg, "text_cfg": text_cfg, "quick_gelu": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    return model.visual


def test_public_weights_give_open_clips_own_states(tmp_path: Path) -> None:
    """Loaded from safetensors, the tower's states of every patch are those of open_clip's own tower; other sizes are refused by name."""
    peer, pictures = open_clip_folder(tmp_path), keyed.normal((2, 3, 16, 16), "picture").clamp(-1, 1)
    tower = Tower(TOWER)
    tower.load_state_dict(vision.load_tower(tmp_path, TOWER), strict=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (vision._MEAN, vision._STD))
    with torch.no_grad():
        peer.output_tokens = True
        peer.proj = None
        pooled, tokens = peer(((pictures + 1) / 2 - mean) / std)
        own = tower(pictures)
    assert torch.allclose(own[:, 0], pooled, atol=1e-4)
    assert torch.allclose(own[:, 1:], tokens, atol=1e-4)
    with pytest.raises(TrainingError, match=r"expected a tower of \{'width': 48\}, found \{'width': 32\}"):
        vision.load_tower(tmp_path, dataclasses.replace(TOWER, width=48))
    with pytest.raises(TrainingError, match=r"expected a tower of \{'heads': 8\}, found \{'heads': 4\}"):
        vision.load_tower(tmp_path, dataclasses.replace(TOWER, heads=8))
    with pytest.raises(TrainingError, match="expected the description of the vision tower"):
        vision.load_tower(tmp_path / "nowhere", TOWER)
    grown = vision.load_tower(tmp_path, dataclasses.replace(TOWER, image_px=32))["positions"]
    assert grown.shape == (17, 32)


def test_a_task_begins_with_public_weights_where_its_parent_has_no_tower(tmp_path: Path) -> None:
    """`weights` fills the tower at first; a parent that has one is what counts from then on."""
    open_clip_folder(tmp_path)
    model = task(with_personal(weights=str(tmp_path))).module()
    expected = vision.load_tower(tmp_path, TOWER)
    assert all(torch.equal(v, expected[n]) for n, v in model.tower.state_dict().items())
    drawn = task().module()
    kept = task(with_personal(weights=str(tmp_path)), parent=drawn.state_dict()).module()
    assert torch.equal(kept.tower.first, drawn.tower.first)


def test_sizes_and_work_by_formula() -> None:
    """ViT-H/14 has its 631 million parameters; operations are those that torch counts; a trained tower costs three times its forward."""
    from torch.utils.flop_counter import FlopCounterMode

    assert abs(vision.tower_parameters(TowerConfig()) / 630.8e6 - 1) < 0.01 and TowerConfig().tokens == 17
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        Tower(TOWER)(torch.zeros(3, 3, 16, 16))
    assert counter.get_total_flops() == vision.tower_forward(TOWER, 3)
    shape = (2, 3, 9, 32, 32)
    frozen, trained = (task(with_personal(train_tower=t)).flops(shape) for t in (False, True))
    assert trained - frozen == 2 * vision.tower_forward(TOWER, 2)


def tiny(stage: str) -> TrainConfig:
    """conf/train/<stage>/tiny.yaml."""
    return settings.load(TrainConfig, f"train/{stage}", "tiny", [])


def test_a_drawn_tower_tells_pictures_apart() -> None:
    """With the initial weights of the tiny preset, each token of two pictures differs by more than a third of the tokens' size: what a
    generator reads of a person is not nearly the same for everybody, although no public weights are there."""
    found = tiny("personal_1").flow
    assert found is not None and found.personal is not None
    tower = Tower(found.personal.tower)
    vision.initialise_tower(tower, 0)
    pictures = torch.nn.functional.interpolate(faces().float() / 127.5 - 1, size=(found.personal.tower.image_px,) * 2)
    with torch.no_grad():
        tokens = tower(pictures)
    size = float(tokens.square().sum(2).mean().sqrt())
    apart = torch.stack([(tokens[i] - tokens[k]).square().sum(1) for i in range(4) for k in range(i)]).mean(0).sqrt()
    assert tokens.shape[1] == found.personal.tower.tokens and float(apart.min()) > size / 3, (apart / size).tolist()


def test_the_benchmark_looks_at_clips_that_were_trained_on() -> None:
    """A plan holds pictures, too, where no step is of pictures: those are no clips that the stage was trained on, unless it had no others."""
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": "g"}
    still, moving = (
        Sample(clip_id=k, kind=k, width=32, height=32, n_frames=1, fps_num=None, fps_den=None, **empty) for k in ("image", "video")
    )
    videos, both = DataConfig(image_batches=0, video_batches=1), DataConfig(image_batches=1, video_batches=3)
    assert trained_on([still, moving], videos) == [moving] and trained_on([still, moving], both) == [still, moving]
    assert trained_on([still], videos) == [still]


def test_two_squares_of_one_clip_show_mostly_the_same() -> None:
    """Where a clip has no face, its square shows at least three quarters of its shorter side, wherever it is cut: squares of one clip have
    more in common than not, as pictures of one face have."""
    from PIL import Image

    ramp = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8)[:, None, None], (96, 96, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(ramp)).save(buffer, "JPEG", quality=95)
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": "g"}
    sample = Sample(clip_id="still", kind="image", width=96, height=96, n_frames=1, fps_num=None, fps_den=None, **empty)
    for draw in range(20):
        found, other = load_reference(lambda s: buffer.getvalue(), sample, Partners([sample]), 48, 0.0, ("squares", draw))
        assert found.shape == (3, 48, 48) and not other and int(found.max()) - int(found.min()) > 0.75 * 255


@pytest.mark.parametrize("stage", ["personal_1", "personal_2", "personal_3"])
def test_a_tower_without_public_weights_learns_in_every_stage(stage: str) -> None:
    """A frozen tower is one that has learnt before: the tiny presets, whose tower is drawn, train it from the first stage on, and leave the
    text out of most samples, as each of their few clips has a caption of its own that tells all that its picture could."""
    found = tiny(stage).flow
    assert found is not None and found.personal is not None and not found.personal.weights
    assert found.personal.train_tower and found.text_dropout >= 0.5


class _Scored(PersonalTask):
    """A stage whose measure is the brightness of the picture it is given."""

    def __init__(self) -> None:
        super().__init__("personal_test", CONFIG, 0, codec(), PROMPTS, TextCache(load_encoders(CONFIG.text)))
        self.measures = ("loss{}",)

    def score(self, model: object, sample: Sample, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean of the picture beside the clip."""
        return self.beside(None, [sample.clip_id])["reference"].double().mean()[None]


class _Alone:
    """What measuring asks of an engine, on one process."""

    device, dtype = torch.device("cpu"), torch.float32

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """There are no others."""
        return values


def test_a_takedown_leaves_the_others_their_pictures() -> None:
    """Of three held-out clips with pictures of 1, 2 and 3 the last is taken down: the others are measured under 1 and 2 as before, and its
    turn under nothing."""
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": "g"}
    samples = tuple(Sample(clip_id=c, kind="video", width=32, height=32, n_frames=9, fps_num=24, fps_den=1, **empty) for c in "abc")
    x = pixels()
    turns = tuple(Turn(i, x[i], True, {"reference": torch.full((3, 16, 16), i + 1, dtype=torch.uint8)}) for i in range(3))
    held = HeldOut(samples, turns)
    assert measure(_Alone(), held, _Scored())["loss"] == 2.0
    left = held.without(frozenset({2}))
    assert measure(_Alone(), left, _Scored())["loss"] == 1.5
    assert [float(left.beside(t)[c]["reference"].float().mean()) for t, c in zip(left.turns, "aba", strict=True)] == [1.0, 2.0, 0.0]


def test_what_is_missing_is_named() -> None:
    """A clip without a picture, a picture of another size, and a model of another width are refused."""
    x = pixels()
    with pytest.raises(TrainingError, match=r"set data\.reference_px"):
        task().asked(x, CLIPS, [("k", c) for c in CLIPS], dataclasses.replace(batch(x), beside={}))
    with pytest.raises(ValueError, match="expected pictures of 16 x 16"):
        Tower(TOWER)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected model\.identity_width 32, found 0"):
        dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, identity_width=0))
    with pytest.raises(ValueError, match="tower: expected image_px divisible by patch_px"):
        TowerConfig(image_px=225)
