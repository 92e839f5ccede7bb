"""The codec of sound: shapes, sizes, the public layout, what its losses measure, and that it learns."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training import flops, keyed
from training.data.batch import Batch
from training.errors import TrainingError
from training.latents import LatentScale
from training.models.codec import Codec, CodecConfig, from_public, initialise
from training.models.spectral import mel_distance, mel_spectrogram, si_sdr_db
from training.models.spectral_discriminator import SpectralDiscriminator, SpectralDiscriminatorConfig, feature_distance
from training.sound_latents import MARGIN_FRAMES, TILE_FRAMES, SoundCodec, measure_sound_scale, read_codec_weights
from training.tasks.codec import ADVERSARY, MODEL, CodecTask
from training.tasks.sound_config import CodecLossConfig, CodecStage

SMALL = CodecConfig(encoder_widths=(2, 4, 8), decoder_widths=(8, 4, 2), strides=(4, 6), hidden_width=8, latent_channels=4)
LOSS = CodecLossConfig(wave_weight=1.0, mel_weight=1.0, mel_windows=(64, 256))


def drawn(config: CodecConfig, seed: int = 0) -> Codec:
    """A codec with its initial weights."""
    codec = Codec(config)
    initialise(codec, seed)
    return codec


def tones(n: int, length: int) -> torch.Tensor:
    """Sines of several pitches, (n, length)."""
    t = torch.arange(length) / 48_000
    return torch.stack([0.3 * torch.sin(2 * math.pi * (300 + 90 * i) * t) for i in range(n)])


class Plain:
    """What an engine is to a task: the module, called and reached."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: torch.Tensor) -> object:
        return self.module(*inputs)


def batch_of(sound: torch.Tensor) -> Batch:
    """A batch of a stage of sound."""
    clips = tuple(f"clip {i}" for i in range(len(sound)))
    beside = {"sound": sound, "seen": torch.zeros(len(sound), 1, dtype=torch.uint8)}
    pixels = torch.zeros(len(sound), 3, 0, 8, 8, dtype=torch.uint8)
    return Batch(step=0, kind="audio", pixels=pixels, clip_ids=clips, epochs=(0,) * len(sound), beside=beside)


def test_the_paper_size_is_the_public_one() -> None:
    """Hop 1920, 128 channels, 25 latents a second; 93.0 million parameters on the meta device: the public 107.7 without its watermark."""
    with torch.device("meta"):
        codec = Codec(CodecConfig())
        output, posterior = codec(torch.empty(2, 48_000))
    assert CodecConfig().hop == 1920 and posterior.mean.shape == posterior.std.shape == (2, 128, 25) and output.shape == (2, 48_000)
    assert sum(p.numel() for p in codec.parameters()) == 92_972_193


def test_shapes_and_refusals() -> None:
    """Any whole number of latent frames is taken, deviations are positive, output lies in (-1, 1); a part of a frame is refused."""
    codec = drawn(SMALL)
    for frames in (1, 7):
        output, posterior = codec(tones(2, 24 * frames), keyed.normal((2, 4, frames), "n"))
        assert output.shape == (2, 24 * frames) and posterior.mean.shape == (2, 4, frames)
        assert float(posterior.std.min()) > 0 and float(output.abs().max()) < 1
    with pytest.raises(ValueError, match="expected a multiple of 24 samples, found 25"):
        codec(tones(1, 25))
    with pytest.raises(ValueError, match="expected 3 widths for 2 strides, found 2"):
        dataclasses.replace(SMALL, encoder_widths=(2, 4))


@pytest.mark.parametrize("newer", [False, True])
def test_a_file_in_the_public_layout_is_read(tmp_path: Path, newer: bool) -> None:
    """Weights stored as g and v, under either of torch's names and with the bottleneck called `quantizer`, are those that torch's own
    weight normalisation computes; what does not fit is refused by name."""
    own = drawn(SMALL, 3).state_dict()
    public: dict[str, torch.Tensor] = {}
    for name, value in own.items():
        told = name.replace("bottleneck.", "quantizer.")
        if not name.endswith("weight"):
            public[told] = value
            continue
        stem = told.removesuffix("weight")
        g, v = ("parametrizations.weight.original0", "parametrizations.weight.original1") if newer else ("weight_g", "weight_v")
        public[stem + g] = value.flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
        public[stem + v] = 2.5 * value
    public["decoder.wm_model.encoder.weight"] = torch.ones(1)
    save_file(public, tmp_path / "public.safetensors")
    codec = drawn(SMALL)
    read_codec_weights(tmp_path / "public.safetensors", codec)
    for name, value in codec.state_dict().items():
        torch.testing.assert_close(value, own[name])
    with pytest.raises(TrainingError, match="expected the weights of a codec of these sizes"):
        read_codec_weights(tmp_path / "public.safetensors", drawn(dataclasses.replace(SMALL, latent_channels=5)))
    with pytest.raises(ValueError, match=r"expected encoder\.x\.weight_v beside it"):
        from_public({"encoder.x.weight_g": torch.ones(1)})


def test_folding_is_what_torch_computes() -> None:
    """For a convolution and for a transposed one, g v / |v| is the weight of torch's `weight_norm` module."""
    from torch.nn.utils.parametrizations import weight_norm

    for layer in (torch.nn.Conv1d(3, 5, 4), torch.nn.ConvTranspose1d(3, 5, 4)):
        normed = weight_norm(layer)
        normed.parametrizations.weight.original0.data *= 1.7
        found = from_public({f"encoder.{n}": v for n, v in normed.state_dict().items()})
        torch.testing.assert_close(found["encoder.weight"], normed.weight)


def test_si_sdr_follows_its_definition() -> None:
    """Scale and offset do not matter; noise at a tenth of the amplitude is 20 dB; exact and silent stay finite; no number stays none."""
    s, n = tones(1, 48_000)[0], tones(6, 48_000)[5]
    assert si_sdr_db(s + 0.1 * n, s) == pytest.approx(20, abs=0.1) == pytest.approx(si_sdr_db(0.2 * (s + 0.1 * n) + 0.3, s), abs=1e-4)
    assert (si_sdr_db(n, s) < -30 and si_sdr_db(s, s) == 100) or si_sdr_db(s, s) > 90
    assert si_sdr_db(s, torch.zeros_like(s)) == si_sdr_db(torch.zeros_like(s), s) == -100
    assert math.isnan(si_sdr_db(s * float("nan"), s))


def test_mel_distance_orders_sounds() -> None:
    """Zero for itself, a factor of ten in level is one, another pitch is farther than a little noise; each sound of a batch alone."""
    x = tones(3, 9600)
    assert float(mel_distance(x, x).max()) == 0
    hiss = 0.1 * keyed.normal((1, 9600), "hiss")
    assert float(mel_distance(0.1 * hiss, hiss, (512,))[0]) == pytest.approx(1.0, abs=0.01)
    noisy = x + 1e-4 * keyed.normal(tuple(x.shape), "noise")
    assert float(mel_distance(noisy, x, (2048,))[0]) < float(mel_distance(x.roll(1, 0), x, (2048,))[0])
    torch.testing.assert_close(mel_distance(noisy, x)[1:2], mel_distance(noisy[1:2], x[1:2]))
    peak = mel_spectrogram(tones(1, 48_000), 2048, 80)[0].mean(1).argmax()
    assert int(peak) == int(mel_spectrogram(tones(1, 24_000), 2048, 80)[0].mean(1).argmax()) < 20


def test_features_tell_sounds_apart() -> None:
    """The discriminator judges each sound alone at every window; its features are at no distance from themselves."""
    net = SpectralDiscriminator(SpectralDiscriminatorConfig(windows=(64, 128), channels=4))
    x = tones(2, 4800)
    logits, features = net(x, True)
    assert logits.shape[0] == 2 and len(features) == 10 and torch.equal(net(x), logits)
    torch.testing.assert_close(net(x[:1]), logits[:1])
    assert float(feature_distance(features, features).max()) == 0
    assert float(feature_distance(net(x.roll(1, 0), True)[1], features).min()) > 0


def test_the_adversary_pushes_as_hard_as_it_is_weighed() -> None:
    """With an adversary the value of the loss is that without one, and the gradient at the samples is longer by at most its weight of the
    reconstruction's; the discriminator judges the very sound that was made."""
    config = dataclasses.replace(LOSS, discriminator=SpectralDiscriminatorConfig(windows=(64,), channels=4))
    sound = tones(2, 24 * 100)
    totals = []
    for weight in (0.0, 0.5):
        task = CodecTask("codec", CodecStage(model=SMALL, loss=dataclasses.replace(config, gan_weight=weight)), 0, 100)
        engines = {name: Plain(module) for name, module in task.modules().items()}
        loss = task.loss(MODEL, engines, batch_of(sound), torch.zeros(2, 3, 0, 8, 8))
        totals.append(loss)
        loss.total.sum().backward()
    assert torch.equal(totals[0].total, totals[1].total) and {"adversarial", "features"} <= set(totals[1].parts)
    judged = task.loss(ADVERSARY, engines, batch_of(sound), torch.zeros(2, 3, 0, 8, 8))
    assert judged.total.shape == (2,) and 0.5 < float(judged.total.mean()) < 1.5
    assert not any(p.grad is not None for p in engines[ADVERSARY].module.parameters())


def test_a_sound_s_loss_does_not_depend_on_its_company() -> None:
    """Each sample's loss and parts are the same alone as in a batch: any number of processes computes the same."""
    stage = CodecStage(
        model=SMALL, loss=dataclasses.replace(LOSS, gan_weight=0.3, discriminator=SpectralDiscriminatorConfig(windows=(64,), channels=4))
    )
    task, sound = CodecTask("codec", stage, 0, 50), tones(3, 24 * 50)
    engines = {name: Plain(module) for name, module in task.modules().items()}
    whole = task.loss(MODEL, engines, batch_of(sound), torch.zeros(3, 3, 0, 8, 8))
    alone = task.loss(MODEL, engines, batch_of(sound).part(slice(1, 2)), torch.zeros(1, 3, 0, 8, 8))
    torch.testing.assert_close(alone.total, whole.total[1:2], rtol=1e-4, atol=1e-5)


def test_four_sounds_are_learnt() -> None:
    """In a hundred steps SI-SDR rises by more than 10 dB."""
    config = CodecConfig(encoder_widths=(4, 64), decoder_widths=(64, 4), strides=(48,), dilations=(1,), hidden_width=64, latent_channels=16)
    task = CodecTask("codec", CodecStage(model=config, loss=dataclasses.replace(LOSS, mel_weight=0.2)), 0, 50)
    sound = tones(4, 48 * 50)
    model = task.module()
    engines, optimiser = {MODEL: Plain(model)}, torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)

    def ratio() -> float:
        with torch.no_grad():
            return float(np.mean([si_sdr_db(made, s) for made, s in zip(model(sound)[0], sound, strict=True)]))

    before = ratio()
    for _ in range(100):
        optimiser.zero_grad()
        task.loss(MODEL, engines, batch_of(sound), torch.zeros(4, 3, 0, 8, 8)).total.mean().backward()
        optimiser.step()
    assert ratio() > max(before + 10, 3)


def test_long_sounds_are_decoded_in_parts_as_at_once() -> None:
    """Latents longer than a tile decode to what one pass gives; encoding is one sound at a time, kept by content where there is room."""
    codec = drawn(CodecConfig(encoder_widths=(2, 4, 4, 8, 8), decoder_widths=(8, 4, 4, 2, 2), hidden_width=4, latent_channels=3))
    scale = measure_sound_scale(codec, [tones(1, 1920 * 4)[0]])
    frozen = SoundCodec(codec, scale, memory_bytes=1 << 20)
    z = keyed.normal((1, 3, TILE_FRAMES + 2 * MARGIN_FRAMES + 5), "z")
    with torch.no_grad():
        whole = codec.decode(z * torch.tensor(scale.std)[:, None] + torch.tensor(scale.mean)[:, None])
    torch.testing.assert_close(frozen.decode(z), whole, rtol=1e-4, atol=1e-5)
    x = tones(2, 1920 * 4)
    assert torch.equal(frozen.encode(x), frozen.encode(x)) and torch.equal(frozen.encode(x)[1:], frozen.encode(x[1:]))
    normal = frozen.encode(x[:1])
    torch.testing.assert_close(normal.mean(2), torch.zeros(1, 3), atol=1e-3, rtol=0)
    assert isinstance(scale, LatentScale)


@pytest.mark.parametrize(
    "config", [SMALL, CodecConfig(encoder_widths=(4, 8, 8), decoder_widths=(16, 8, 4), strides=(8, 10), hidden_width=12)]
)
def test_the_formula_counts_what_torch_counts(config: CodecConfig) -> None:
    """Encode, decode and their backward pass, within 1 %."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        codec, x = Codec(config), torch.empty(2, config.hop * 50)
    counter = FlopCounterMode(display=False)
    with counter:
        codec(x)[0].sum().backward()
    assert counter.get_total_flops() == pytest.approx(2 * flops.codec_step(config, 50), rel=0.03)
