"""The linear code that an autoencoder has to beat, and may begin as."""

import math

import pytest
import torch
from torch import Tensor

from training.errors import TrainingError
from training.losses import TAELossConfig
from training.models.autoencoder import TAE, TAEConfig
from training.models.layers import initialise
from training.principal import begin_as_principal, fit_principal
from training.tasks.autoencoder import AutoencoderTask

SIZES = TAEConfig(patch_px=8, base_channels=24, channel_mult=(1,), n_res_blocks=1, latent_channels=4, norm_groups=1, norm_out=False)


def clips(n: int, seed: int = 0) -> list[Tensor]:
    """Clips (3, 16, 32, 32) whose blocks are mixtures of 4 fixed patterns of unequal strength, and a little noise."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.linalg.qr(torch.randn(3 * 8**3, 4, generator=generator))[0] * torch.tensor([8.0, 4.0, 2.0, 1.0])
    generator.manual_seed(seed)
    made = []
    for _ in range(n):
        blocks = torch.randn(2, 4, 4, 4, generator=generator) @ patterns.T + 0.1
        pixels = blocks.view(2, 4, 4, 3, 8, 8, 8).permute(3, 0, 4, 1, 5, 2, 6).reshape(3, 16, 32, 32)
        made.append(pixels + 0.01 * torch.randn(pixels.shape, generator=generator))
    return made


def test_components_are_those_of_the_blocks() -> None:
    """Four planted patterns are found in order of their strength, orthonormal, and the code of four numbers leaves only the noise."""
    principal = fit_principal(clips(120), 4)
    assert torch.allclose(principal.basis.T @ principal.basis, torch.eye(4), atol=1e-5)
    assert torch.allclose(principal.std, torch.tensor([8.0, 4.0, 2.0, 1.0]), rtol=0.1)
    assert torch.allclose(principal.mean, torch.full((1536,), 0.1), atol=0.05)
    x = torch.stack(clips(2, seed=1))
    assert float((principal.reconstruct(x) - x).square().mean()) == pytest.approx(0.01**2, rel=0.05)


def test_an_autoencoder_begins_as_the_linear_code() -> None:
    """Before training it reconstructs unseen clips of any length as the linear code does, and its latent has deviation 1 a channel."""
    principal = fit_principal(clips(120), 4)
    tae = TAE(SIZES)
    initialise(tae, 0)
    before = tae(torch.stack(clips(1)))[0]
    begin_as_principal(tae, principal)
    x = torch.stack(clips(20, seed=1))
    with torch.no_grad():
        made, posterior = tae(x)
        assert torch.allclose(made, principal.reconstruct(x), atol=1e-4)
        assert torch.allclose(tae(x[:, :, :11])[0], principal.reconstruct(x[:, :, :11]), atol=1e-4)
    assert not torch.allclose(before, principal.reconstruct(torch.stack(clips(1))), atol=0.1)
    assert torch.allclose(posterior.mean.std((0, 2, 3, 4)), torch.ones(4), rtol=0.15)
    assert posterior.logvar.mean() == pytest.approx(SIZES.initial_logvar, abs=1.5) and math.isfinite(float(posterior.kl().sum()))


def test_it_learns_from_there() -> None:
    """Every layer that the linear code silenced has a gradient or feeds one that has: the model is not stuck where it begins."""
    task = AutoencoderTask("tae", SIZES, TAELossConfig(), 0, principal=fit_principal(clips(120), 4))
    tae, x = task.module(), torch.stack(clips(2, seed=1))
    tae.train()
    out, _ = tae(x)
    (out - x).abs().mean().backward()
    for name in ("encoder.conv_in", "encoder.middle.0.conv2", "encoder.conv_out", "decoder.levels.0.0.conv2", "decoder.conv_out"):
        assert float(tae.get_parameter(f"{name}.spatial.weight").grad.abs().sum()) > 0, name


def test_what_does_not_fit_is_refused() -> None:
    """Too few blocks to have components, and a model without patches, are errors that say what was expected."""
    with pytest.raises(TrainingError, match="more than 1536 blocks, found 32"):
        fit_principal(clips(1), 4)
    other = TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), latent_channels=4, norm_groups=1)
    with pytest.raises(TrainingError, match="expected patch_px 8, 4 latent channels"):
        AutoencoderTask("tae", other, TAELossConfig(), 0, principal=fit_principal(clips(60), 4)).module()
