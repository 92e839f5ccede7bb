"""The autoencoder keeps its promises before any training: inflation, lengths, losses, initial values, operation counts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.config import TrainConfig, from_json_value, to_json_value
from training.data.batch import Batch
from training.data.config import DataConfig
from training.loop import lr_at
from training.losses import TAELossConfig, l1, outlier_penalty, psnr_db
from training.models.autoencoder import TAE, Posterior, TAEConfig, from_patches, inflate, latent_frames, to_patches
from training.models.layers import initialise
from training.parallel.engine import EngineConfig, OptimConfig, deepspeed_json
from training.tasks.autoencoder import AutoencoderTask

SMALL = {"base_channels": 8, "channel_mult": (1, 1, 2, 2), "n_res_blocks": 1, "norm_groups": 4}


def built(temporal: bool, seed: int) -> TAE:
    """A small autoencoder with initial weights."""
    model = TAE(TAEConfig(temporal=temporal, **SMALL))
    initialise(model, seed)
    return model.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[TAE, TAE]:
    """An image autoencoder, and a temporal one inflated from it that began with other weights."""
    image, video = built(False, 1).double(), built(True, 2).double()
    inflate(image.state_dict(), video)
    return image, video


def pixels(frames: int, seed: int = 0) -> Tensor:
    """Random pixels (2, 3, frames, 16, 24), in double precision."""
    return torch.rand((2, 3, frames, 16, 24), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def assert_same(a: Tensor, b: Tensor) -> None:
    """Equal but for the last bits of a double, which depend on the order in which a convolution adds up."""
    assert a.dtype == torch.float64 and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-12)


def test_inflated_equals_image_model_on_images(pair: tuple[TAE, TAE]) -> None:
    """A single image is encoded and reconstructed as the image autoencoder does it."""
    image, video = pair
    with torch.no_grad():
        assert_same(video.encode(pixels(1)).mean, image.encode(pixels(1)).mean)
        assert_same(video(pixels(1))[0], image(pixels(1))[0])


def test_inflated_equals_image_model_on_still_videos(pair: tuple[TAE, TAE]) -> None:
    """Every frame of a still video is reconstructed as the image autoencoder reconstructs that picture."""
    image, video = pair
    still = pixels(1).expand(-1, -1, 11, -1, -1)
    with torch.no_grad():
        assert_same(video(still)[0], image(still)[0])


def test_inflated_encodes_every_eighth_frame(pair: tuple[TAE, TAE]) -> None:
    """Before training, latent frame i of a moving video is the image latent of frame 8 i: nothing is averaged or shifted."""
    image, video = pair
    moving = pixels(17)
    with torch.no_grad():
        assert_same(video.encode(moving).mean, image.encode(moving[:, :, ::8]).mean)


@pytest.mark.parametrize("patch_px", [2, 4, 8])
def test_patches_are_a_permutation_and_inflate_too(patch_px: int) -> None:
    """Pixels in patches come back as they were, whatever the length; a model on patches takes and gives any length, and one inflated
    from an image model on patches reconstructs an image and a still video as that does."""
    x = pixels(11)
    patches = to_patches(x, patch_px, patch_px)
    assert patches.shape == (2, 3 * patch_px**3, -(-11 // patch_px), 16 // patch_px, 24 // patch_px)
    assert torch.equal(patches[0, :, 0, 0, 0], x[0, :, :patch_px, :patch_px, :patch_px].flatten())
    assert torch.equal(from_patches(patches, patch_px, patch_px, 11), x)
    sizes = {"base_channels": 8, "channel_mult": (1,) * (4 - patch_px.bit_length() + 1), "n_res_blocks": 1, "norm_groups": 4}
    image, video = (TAE(TAEConfig(temporal=temporal, patch_px=patch_px, **sizes)) for temporal in (False, True))
    for model in (image, video):
        initialise(model.double(), 1)
    inflate(image.state_dict(), video)
    with torch.no_grad():
        assert video.encode(x).mean.shape == (2, 16, 2, 2, 3) and video(x)[0].shape == x.shape
        assert_same(video(x[:, :, :1])[0], image(x[:, :, :1])[0])
        assert_same(video(x[:, :, :1].expand(-1, -1, 11, -1, -1))[0], image(x[:, :, :1].expand(-1, -1, 11, -1, -1))[0])


def test_inflation_refuses_other_weights(pair: tuple[TAE, TAE]) -> None:
    """Missing weights and wrong shapes are named, never skipped."""
    image, video = pair
    state = image.state_dict()
    missing = {k: v for k, v in state.items() if k != "encoder.conv_in.spatial.weight"}
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.spatial\.weight"):
        inflate(missing, video)
    with pytest.raises(ValueError, match="expected shape"):
        inflate({**state, "encoder.conv_in.spatial.bias": torch.zeros(3)}, video)


@given(st.integers(1, 26))
@settings(max_examples=10, deadline=None)
def test_any_length_is_taken_and_given_back(frames: int) -> None:
    """T' frames give ceil(T'/8) latent frames and T' frames back."""
    model = built(True, 3)
    x = torch.zeros(1, 3, frames, 8, 8)
    with torch.no_grad():
        output, posterior = model(x)
    assert posterior.mean.shape == (1, 16, -(-frames // 8), 1, 1) and output.shape == x.shape
    assert posterior.mean.shape[1:] == model.latent_shape(tuple(x.shape))


def test_paper_length_rule() -> None:
    """256 frames are 32 latent frames, an image is one (Movie Gen, length rule)."""
    assert (latent_frames(256), latent_frames(192), latent_frames(128), latent_frames(1)) == (32, 24, 16, 1)


def test_time_is_symmetric() -> None:
    """The encoder sees the future as it sees the past: the last frame changes the first latent frame (not causal)."""
    model = built(True, 4).double()
    for module in model.modules():
        if hasattr(module, "temporal") and isinstance(module.temporal, torch.nn.Module):
            for p in module.temporal.parameters():
                p.data.add_(0.1)
    a, b = pixels(16), pixels(16)
    b[:, :, -1] += 0.5
    with torch.no_grad():
        assert not torch.equal(model.encode(a).mean[:, :, 0], model.encode(b).mean[:, :, 0])


def test_wrong_pixels_are_refused() -> None:
    """Sizes that are no multiples of 8, and latents of another length, give an error that says what was expected."""
    model = built(True, 5)
    with pytest.raises(ValueError, match="expected pixels"):
        model(torch.zeros(1, 3, 4, 12, 16))
    with pytest.raises(ValueError, match="expected 2 latent frames for 9, found 1"):
        model.decode(torch.zeros(1, 16, 1, 2, 2), 9)


def test_outlier_penalty_is_the_papers_formula() -> None:
    """mean over positions of max(|X_ij - Mean(X)| - r |Std(X)|, 0), written out with loops, equals the code."""
    z = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    z[0, :, 1, 2, 3] += 40.0
    for r in (0.5, 3.0):
        for b in range(2):
            frames = []
            for t in range(3):
                x = z[b, :, t].flatten(1)
                mean, std = x.mean(1), x.std(1, unbiased=False)
                distances = [torch.linalg.vector_norm(x[:, i] - mean) - r * torch.linalg.vector_norm(std) for i in range(x.shape[1])]
                frames.append(torch.stack(distances).clamp_min(0).mean())
            assert torch.allclose(outlier_penalty(z, r)[b], torch.stack(frames).mean(), atol=1e-6)
    assert outlier_penalty(z, 3.0)[0] > 0 and outlier_penalty(z, 3.0)[1] == 0


def test_outlier_penalty_has_a_gradient_on_flat_latents() -> None:
    """A constant latent has no outlier and no NaN gradient."""
    z = torch.ones(1, 4, 2, 3, 3, requires_grad=True)
    outlier_penalty(z, 3.0).sum().backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()


def test_kl_and_l1_of_known_values() -> None:
    """The standard normal has no divergence; N(1, 1) has 1/2; L1 is the mean absolute difference."""
    zero = torch.zeros(2, 16, 1, 2, 2)
    assert Posterior(zero, zero).kl().tolist() == [0.0, 0.0]
    assert Posterior(zero + 1, zero).kl().tolist() == [0.5, 0.5]
    assert l1(zero + 0.25, zero).tolist() == [0.25, 0.25]


def test_initial_weights_are_keyed_and_leave_global_randomness_alone() -> None:
    """The same seed gives the same weights, another gives others, and torch's global generator is not touched."""
    before = torch.random.get_rng_state()
    states = [AutoencoderTask("tae", TAEConfig(**SMALL), TAELossConfig(), seed).module().state_dict() for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    name = "decoder.conv_in.spatial.weight"
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0][name], states[2][name])
    assert all(torch.isfinite(v).all() for v in states[0].values())


def test_noise_belongs_to_the_clip_not_to_its_place() -> None:
    """A clip's loss does not depend on which others are in its batch, nor on its place among them."""
    task = AutoencoderTask("tae", TAEConfig(**SMALL), TAELossConfig(), 0)
    model, x = task.module(), pixels(9).float()
    ab = Batch(step=0, kind="video", pixels=x, clip_ids=("a", "b"), epochs=(0, 0))
    ba = Batch(step=5, kind="video", pixels=x.flip(0), clip_ids=("b", "a"), epochs=(0, 0))
    with torch.no_grad():
        forward, backward = (task.loss("autoencoder", {"autoencoder": model}, b, p).total for b, p in ((ab, x), (ba, x.flip(0))))
    assert torch.allclose(forward, backward.flip(0), rtol=1e-5)


def test_flops_follow_the_shapes() -> None:
    """A convolution's operations are counted: twice the clips, twice the work; an image costs less than a sixth of 8 frames."""
    task = AutoencoderTask("tae", TAEConfig(**SMALL), TAELossConfig(), 0)
    one = task.flops((1, 3, 8, 32, 32))
    assert task.flops((2, 3, 8, 32, 32)) == 2 * one
    assert 0 < task.flops((1, 3, 1, 32, 32)) < one / 4


def test_psnr_of_known_errors() -> None:
    """An error of 0.2 everywhere in a range of 2 is 20 dB; no error is 100 dB; frames are averaged in dB."""
    target = torch.zeros(3, 2, 8, 8)
    assert psnr_db(target + 0.2, target) == pytest.approx(20.0, abs=1e-5)
    assert psnr_db(target, target) == 100.0
    half = target.clone()
    half[:, 1] += 0.2
    assert psnr_db(half, target) == pytest.approx(60.0, abs=1e-5)


def test_learning_rate_warms_up_and_comes_down() -> None:
    """Linear up to lr over the warm-up, then half a cosine down to its final share at the last step."""
    config = OptimConfig(lr=1.0, warmup_steps=10, final_lr_share=0.1)
    rates = [lr_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert {lr_at(step, 100, OptimConfig(lr=1.0, warmup_steps=1)) for step in range(100)} == {1.0}


def test_configuration_survives_json() -> None:
    """The configuration a worker reads is the one that was written; unknown keys and impossible values are named."""
    config = TrainConfig(processes=2, data=DataConfig(sets=("low_res",), size_px=64, resize_px=72), model=TAEConfig(**SMALL))
    assert from_json_value(to_json_value(config)) == config
    with pytest.raises(ValueError, match=r"unknown keys \['sizes'\]"):
        from_json_value({"data": {"sizes": 3}})
    with pytest.raises(ValueError, match="multiple of 3 groups of processes"):
        TrainConfig(processes=3)
    with pytest.raises(ValueError, match="multiple of 8"):
        DataConfig(size_px=60)


def test_deepspeed_settings_come_from_the_typed_ones() -> None:
    """ZeRO-3 with torch's AdamW, the clip norm and the precision that were asked for."""
    settings = deepspeed_json(EngineConfig(precision="bf16", persistence_threshold=7), OptimConfig(clip_norm=0.5))
    assert settings["zero_optimization"]["stage"] == 3 and settings["gradient_clipping"] == 0.5
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"]["stage3_param_persistence_threshold"] == 7
