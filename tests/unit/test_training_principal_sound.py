"""The linear code of blocks of sound, and a codec that begins as it."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from training.errors import TrainingError
from training.models.codec import Codec, CodecConfig, initialise
from training.models.spectral import si_sdr_db
from training.principal_sound import LinearSound, begin_as_linear, fit_linear
from training.tasks.codec import CodecTask
from training.tasks.sound_config import CodecLossConfig, CodecStage

HOP, CHANNELS = 48, 6
SIZES = [
    CodecConfig(encoder_widths=(2, 4, 8), decoder_widths=(8, 4, 2), strides=(4, 12), hidden_width=8, latent_channels=CHANNELS),
    CodecConfig(encoder_widths=(1, 8, 24, 32), decoder_widths=(40, 26, 9, 3), strides=(4, 6, 2), hidden_width=16, latent_channels=CHANNELS),
    CodecConfig(encoder_widths=(3, 7), decoder_widths=(6, 1), strides=(48,), dilations=(1,), hidden_width=6, latent_channels=CHANNELS),
]


def voices(n: int, seed: int) -> list[Tensor]:
    """Sounds (480,), mixtures of three waves of any phase: blocks of six numbers each, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    t = 2 * math.pi * torch.arange(480) / 48
    made = []
    for _ in range(n):
        size, phase = torch.rand(3, generator=generator), 6.3 * torch.rand(3, generator=generator)
        waves = sum(size[i] * torch.sin((i + 1) * t + phase[i]) for i in range(3))
        made.append(0.1 * torch.as_tensor(waves) + 1e-4 * torch.randn(480, generator=generator))
    return made


def fitted() -> LinearSound:
    """The code of many such sounds."""
    return fit_linear(voices(400, 0), HOP, CHANNELS)


def test_the_code_holds_what_there_is() -> None:
    """Sounds of six numbers a block, not fitted on, come back but for their noise; the code has mean square 1 on average, and each of its
    numbers has a fair share, though the waves differ in size by far more than their mixtures."""
    linear, sounds = fitted(), torch.stack(voices(200, 1))
    for made, sound in zip(linear.reconstruct(sounds), sounds, strict=True):
        assert si_sdr_db(made, sound) > 30
    code = sounds.unflatten(1, (-1, HOP)).flatten(0, 1) @ linear.encode.T
    shares = code.square().mean(0)
    assert float(shares.mean()) == pytest.approx(1, rel=0.2) and float(shares.min()) > 0.1
    torch.testing.assert_close(linear.encode @ linear.decode, torch.eye(CHANNELS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", SIZES)
def test_a_codec_begins_as_the_linear_code(config: CodecConfig) -> None:
    """Whatever its strides and widths, before training it reconstructs unseen sounds as the linear code does, as drawn it does not; its
    code has that code's scale and a small deviation."""
    linear, codec, sounds = fitted(), Codec(config), torch.stack(voices(3, 1))
    initialise(codec, 0)
    with torch.no_grad():
        before = codec(sounds)[0]
        begin_as_linear(codec, linear)
        made, posterior = codec(sounds)
    torch.testing.assert_close(made, linear.reconstruct(sounds), atol=5e-3, rtol=0)
    assert float((before - sounds).abs().mean()) > 10 * float((made - sounds).abs().mean())
    wanted = sounds.unflatten(1, (-1, HOP)) @ linear.encode.T
    torch.testing.assert_close(posterior.mean, wanted.transpose(1, 2), atol=0.05, rtol=0.02)
    assert 0 < float(posterior.std.max()) < 0.1


def test_it_learns_from_there() -> None:
    """Nothing that trains is stuck where it begins: the residual units' second layers and everything on the way have gradients."""
    stage = CodecStage(model=SIZES[0], loss=CodecLossConfig(wave_weight=1.0, mel_weight=0.0), linear_clips=1)
    codec = CodecTask("codec", stage, 0, 10, fitted()).module()
    sounds = torch.stack(voices(2, 1))
    (codec(sounds)[0] - sounds).square().mean().backward()
    for name, parameter in codec.named_parameters():
        silent = ".block.0." in name or ".block.1.block.0." in name or ".block.1.weight" in name or ".block.1.bias" in name
        if name.endswith("block.3.weight") or (name.endswith("weight") and not silent):
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_what_does_not_fit_is_refused() -> None:
    """No sound as long as a block, channels without room for a block's samples, more numbers than samples, and a code of other sizes are
    errors that say what was expected; weights that are named go before."""
    with pytest.raises(TrainingError, match=r"expected sounds of 48 samples and more, found none; take codec\.linear_clips=0"):
        fit_linear([torch.zeros(47)], HOP, CHANNELS)
    for change, needed in (({"encoder_widths": (2, 3, 8)}, r"of at least \[1, 4, 6\]"), ({"latent_channels": 49}, "hop of at least 49")):
        with pytest.raises(ValueError, match=rf"codec\.linear_clips: expected .*{needed}.*take 0, or other sizes"):
            CodecStage(model=dataclasses.replace(SIZES[0], **change), linear_clips=1)
    with pytest.raises(ValueError, match="expected blocks of 24 samples, 6 numbers, and room for them, found 48 samples"):
        begin_as_linear(Codec(dataclasses.replace(SIZES[0], strides=(4, 6))), fitted())
    assert CodecStage(linear_clips=4, weights="dacvae.safetensors").weights


def test_few_sounds_tell_the_code() -> None:
    """Three sounds of ten blocks are enough for components that hold others of their kind: their blocks may begin anywhere."""
    linear, sounds = fit_linear(voices(3, 5), HOP, CHANNELS), torch.stack(voices(20, 1))
    assert min(si_sdr_db(m, s) for m, s in zip(linear.reconstruct(sounds), sounds, strict=True)) > 15
