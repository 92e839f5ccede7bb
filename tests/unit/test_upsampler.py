"""The spatial upsampler: what it is given is keyed and damaged, it uses it, and windows of any size are joined."""

import dataclasses

import pytest
import torch
from torch import Tensor

from training import flow, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.degradation import UpsampleConfig, degrade, enlarged, smaller
from training.errors import TrainingError
from training.latents import LatentCodec, measure_scale
from training.models import layers
from training.models.autoencoder import TAE, TAEConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import Transformer, TransformerConfig, initialise
from training.tasks.flow_config import FlowConfig
from training.tasks.upsampler import UpsamplerTask

CLIPS = ("a", "b", "c", "d")
MODEL = TransformerConfig(
    layers=2, width=48, ffn=96, heads=4, latent_channels=4, context_channels=4, max_t=4, max_h=2, max_w=2, bytes_width=32
)
CONFIG = FlowConfig(
    model=MODEL,
    text=TextConfig(bytes_width=32, bytes_tokens=16),
    sampler=flow.SamplerConfig(steps=10, linear_steps=20, guidance=1.0),
    upsample=UpsampleConfig(strength=0.2),
)


def autoencoder(temporal: bool) -> LatentCodec:
    """A small autoencoder with keyed weights, its latents scaled on the test's clips."""
    tae = TAE(TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=4, temporal=temporal))
    layers.initialise(tae, 0)
    return LatentCodec(tae, measure_scale(tae, clips()), "f" * 64)


def clips() -> Tensor:
    """Four clips (4, 3, 4, 32, 32) of stripes of different directions and colours, which move."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    made = []
    for i, (across, down) in enumerate(((0.8, 0.0), (0.0, 0.7), (0.5, 0.5), (0.3, -0.6))):
        colour = torch.tensor([[0.9, 0.2, -0.3], [-0.5, 0.8, 0.1], [0.1, -0.4, 0.9], [0.6, 0.6, -0.8]])[i]
        frames = [torch.sin(across * x + down * y + 0.4 * t) for t in range(4)]
        made.append(0.8 * colour[:, None, None, None] * torch.stack(frames)[None])
    return torch.stack(made)


def task(config: FlowConfig = CONFIG, artefacts: LatentCodec | None = None) -> UpsamplerTask:
    """The task over the four clips."""
    prompts = dict.fromkeys(CLIPS, "")
    return UpsamplerTask("upsampler", config, 0, autoencoder(False), prompts, TextCache(load_encoders(config.text)), None, artefacts)


def held(clip: str) -> Sample:
    """An index entry for the clip."""
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": clip}
    return Sample(clip_id=clip, kind="video", width=32, height=32, n_frames=4, fps_num=24, fps_den=1, **empty)


@pytest.fixture(scope="module")
def learnt() -> torch.nn.Module:
    """The model after 150 steps over the four clips."""
    of, x = task(), clips()
    model = of.module()
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(150):
        batch = Batch(step=step, kind="video", pixels=x, clip_ids=CLIPS, epochs=(step,) * 4)
        loss = of.loss("transformer", {"transformer": model}, batch, x).total.mean()
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
    return model


def test_damage_is_keyed_and_grows_with_strength() -> None:
    """The same key gives the same small clip, another key another; none at strength 0; more of it is further from the merely smaller clip."""
    x = clips()[0].transpose(0, 1)
    assert torch.equal(degrade(x, UpsampleConfig(), 1, "a"), degrade(x, UpsampleConfig(), 1, "a"))
    assert not torch.equal(degrade(x, UpsampleConfig(), 1, "a"), degrade(x, UpsampleConfig(), 2, "a"))
    assert torch.equal(degrade(x, UpsampleConfig(strength=0), 1), smaller(x, 2))
    away = [
        sum(float((degrade(x, UpsampleConfig(strength=s), k) - smaller(x, 2)).square().mean()) for k in range(8)) for s in (0.05, 0.3, 1.0)
    ]
    assert away == sorted(away), away
    assert degrade(x, UpsampleConfig(), 1).shape == (4, 3, 16, 16)


def test_damage_is_the_same_in_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a still clip, without noise, all frames are the same to the bit: blur, sizes and compression are one draw a clip; noise alone is each
    frame's own."""
    still = clips()[0][:, :1].expand(-1, 4, -1, -1).transpose(0, 1)
    noisy = degrade(still, UpsampleConfig(strength=1.0), "still", 0)
    assert not torch.equal(noisy[0], noisy[1])
    monkeypatch.setattr("training.degradation._noise", lambda x, *rest: x)
    damaged = 0
    for key in range(6):
        made = degrade(still, UpsampleConfig(strength=1.0), "still", key)
        assert all(torch.equal(made[0], frame) for frame in made[1:]), key
        damaged += bool((made - smaller(still, 2)).abs().mean() > 0.01)
    assert damaged == 6


def test_the_low_resolution_clip_is_used(learnt: torch.nn.Module) -> None:
    """After learning, the loss with a clip's own small version is clearly below that with another's."""
    of, x = task(), clips()
    own = torch.stack([of.score(learnt, held(c), x[i : i + 1], torch.float32)[0] for i, c in enumerate(CLIPS)]).mean()

    class Shuffled(UpsamplerTask):
        """Gives every clip the next one's small version."""

        def low(self, x_T3HW: Tensor, key: tuple[object, ...]) -> Tensor:
            number = int((x - x_T3HW.transpose(0, 1)).flatten(1).abs().mean(1).argmin())
            return super().low(x[(number + 1) % 4].transpose(0, 1), key)

    prompts = dict.fromkeys(CLIPS, "")
    other = Shuffled("upsampler", CONFIG, 0, autoencoder(False), prompts, TextCache(load_encoders(CONFIG.text)))
    wrong = torch.stack([other.score(learnt, held(c), x[i : i + 1], torch.float32)[0] for i, c in enumerate(CLIPS)]).mean()
    assert own < 0.75 * wrong, (own, wrong)


def test_one_window_is_plain_sampling(learnt: torch.nn.Module) -> None:
    """A clip no larger than the tables of positions is made in one piece, as the sampler alone makes it."""
    of, x = task(), clips()
    low = smaller(x[0].transpose(0, 1), 2)
    made = of.upsample(learnt, low, "", "k")
    asked = of.asked(x[:1], ["a"], [("validate/v1", "a")], None)._replace(context=of.context(low[None], torch.float32))
    x_0 = keyed.normal(tuple(asked.x_1.shape), "k")
    plain = autoencoder(False).decode(of.latents(learnt, x_0, asked, torch.float32), 4)[0]
    torch.testing.assert_close(made, plain)


def test_any_size_is_made(learnt: torch.nn.Module) -> None:
    """7 frames of 24 x 40 pixels become 48 x 80 through windows along time, height and width."""
    low = enlarged(smaller(clips()[0].transpose(0, 1), 4), 5)[:, :, :24, :40].repeat(2, 1, 1, 1)[:7]
    made = task().upsample(learnt, low, "", "k")
    assert made.shape == (3, 7, 48, 80) and bool(made.isfinite().all())


def test_traces_of_an_autoencoder_stand_in_for_damage() -> None:
    """With a share of 1 the small clip is the temporal autoencoder's round trip of the merely smaller one."""
    temporal = autoencoder(True)
    of = task(dataclasses.replace(CONFIG, upsample=UpsampleConfig(artefacts_share=1.0)), temporal)
    x = clips()[0].transpose(0, 1)
    small = smaller(x, 2).transpose(0, 1)[None]
    torch.testing.assert_close(of.low(x, ("k",)), temporal.decode(temporal.encode(small), 4)[0].transpose(0, 1))


def test_it_begins_as_its_parent() -> None:
    """From a text-to-image model without context the same velocity is said at first, whatever the small clip is."""
    plain = dataclasses.replace(MODEL, context_channels=0, max_t=1)
    parent = Transformer(plain)
    initialise(parent, 3)
    torch.nn.init.normal_(parent.output.linear.weight)
    prompts = dict.fromkeys(CLIPS, "")
    encoders = TextCache(load_encoders(CONFIG.text))
    model = UpsamplerTask("upsampler", CONFIG, 0, autoencoder(False), prompts, encoders, parent.state_dict()).module()
    x, t = keyed.normal((2, 4, 1, 4, 4), "x"), torch.tensor([0.3, 0.8])
    tokens, masks = encoders.batch(["one", "two words"])
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, tokens, masks, 5 * torch.ones_like(x)), parent(x, t, tokens, masks))


def test_other_surroundings_are_refused() -> None:
    """A temporal autoencoder, or a model without context, cannot be an upsampler's."""
    prompts, texts = dict.fromkeys(CLIPS, ""), TextCache(load_encoders(CONFIG.text))
    with pytest.raises(TrainingError, match="image autoencoder"):
        UpsamplerTask("upsampler", CONFIG, 0, autoencoder(True), prompts, texts)
    without = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, context_channels=0))
    with pytest.raises(TrainingError, match="context channels"):
        UpsamplerTask("upsampler", without, 0, autoencoder(False), prompts, texts)
