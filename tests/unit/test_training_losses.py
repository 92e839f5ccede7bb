"""What the autoencoder is compared with beside L1: perceptual distance with local weights, and an adversary judged at the pixels."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from training.data.batch import Batch
from training.errors import TrainingError
from training.losses import TAELossConfig, adaptive_weight, hinge_discriminator, hinge_generator, pixel_gradient
from training.models.autoencoder import TAEConfig
from training.models.discriminator import Discriminator, DiscriminatorConfig
from training.models.layers import TemporalConv, initialise
from training.models.perceptual import Perceptual
from training.tasks.autoencoder import AutoencoderTask

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Layers of torchvision's AlexNet: number -> (out, in, kernel)."""
TINY = DiscriminatorConfig(base_channels=4, levels=2, norm_groups=2)


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Values in [-1, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of torchvision's AlexNet, with random weights and a classifier that is not needed."""
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for number, (c_out, c_in, kernel) in ALEX.items():
        bound = (3 / (c_in * kernel * kernel)) ** 0.5
        state[f"features.{number}.weight"] = random((c_out, c_in, kernel, kernel), number) * bound
        state[f"features.{number}.bias"] = torch.zeros(c_out)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path)
    return path


def test_perceptual_distance_is_lpips_with_the_weights_of_the_file(alexnet: Path) -> None:
    """The distance equals torchmetrics' module holding the same features and its own channel weights; equal pictures are 0 apart, and
    frames are independent of each other."""
    own = Perceptual("alex", str(alexnet))
    before = torch.random.get_rng_state()
    with torch.random.fork_rng():
        theirs = _LPIPS(pretrained=True, pnet_rand=True, net="alex")
    state = torch.load(alexnet, weights_only=True)
    for name, value in theirs.net.state_dict().items():
        value.copy_(state["features." + name.split(".", 1)[1]])
    a, b = random((2, 3, 32, 40), 1), random((2, 3, 32, 40), 2)
    with torch.no_grad():
        assert torch.allclose(own(a, b), theirs(a, b).flatten(), rtol=1e-5)
        assert own(a, a).tolist() == [0.0, 0.0] and (own(a, b) > 0.01).all()
        assert torch.allclose(own(a, b)[:1], own(a[:1], b[:1]), rtol=1e-5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_perceptual_distance_has_a_gradient_at_the_pixels_only(alexnet: Path) -> None:
    """A step against the gradient brings the picture nearer; no weight of the network is trained."""
    own, target = Perceptual("alex", str(alexnet)), random((1, 3, 32, 32), 1)
    x = random((1, 3, 32, 32), 2).requires_grad_()
    before = own(x, target)
    (gradient,) = torch.autograd.grad(before.sum(), x)
    assert float(own(x - 0.1 * gradient / gradient.norm(), target)) < float(before)
    assert not any(p.requires_grad for p in own._net.parameters())


def test_missing_and_foreign_weights_say_what_to_fetch(alexnet: Path, tmp_path: Path) -> None:
    """No file, a file that is no weights, and weights of another network: each names the file and where the right one is to be had."""
    with pytest.raises(TrainingError, match=r"download\.pytorch\.org/models/vgg16.*gone\.pth.*fetch it"):
        Perceptual("vgg", str(tmp_path / "gone.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(TrainingError, match=r"perceptual_features: expected torchvision's weights"):
        Perceptual("alex", str(tmp_path / "text.pth"))
    with pytest.raises(TrainingError, match=r"features\.0\.weight: expected shape \(64, 3, 3, 3\), found \(64, 3, 11, 11\)"):
        Perceptual("vgg", str(alexnet))
    with pytest.raises(TrainingError, match="at least 32 pixels a side, found"):
        Perceptual("alex", str(alexnet))(random((1, 3, 16, 64)), random((1, 3, 16, 64)))
    with pytest.raises(ValueError, match="perceptual_features: expected a file with the weights of vgg"):
        TAELossConfig(perceptual_weight=0.5)


def judge(seed: int = 0) -> Discriminator:
    """A small discriminator whose temporal layers mix frames."""
    model = Discriminator(TINY)
    initialise(model, seed)
    for module in model.modules():
        if isinstance(module, TemporalConv):
            module.conv.weight.data += 0.1
    return model


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 1), (5, 2), (9, 3)])
def test_a_discriminator_takes_images_and_videos(frames: int, expected: int) -> None:
    """Any number of frames is judged in patches of a quarter of height, width and time; clips are judged independently."""
    model, x = judge(), random((2, 3, frames, 16, 24))
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (2, 1, expected, 4, 6)
        assert torch.allclose(logits[:1], model(x[:1]), atol=1e-6)


def test_a_still_video_is_judged_as_its_image() -> None:
    """Every patch of a still video has the logit that the one picture has: time is padded by repetition and begins as the identity."""
    model = Discriminator(TINY)
    initialise(model, 1)
    image = random((1, 3, 1, 16, 16))
    with torch.no_grad():
        assert torch.allclose(model(image.expand(-1, -1, 8, -1, -1)), model(image).expand(-1, -1, 2, -1, -1), atol=1e-5)


def test_a_discriminator_sees_brightness_and_time() -> None:
    """Neither a brighter picture nor the same frames in another order pass unnoticed."""
    model, x = judge(), random((1, 3, 4, 16, 16)) * 0.5
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x + 0.3), atol=1e-3)
        assert not torch.allclose(model(x), model(x[:, :, [2, 0, 3, 1]]), atol=1e-3)


def test_hinge_losses_of_known_logits() -> None:
    """1 at logits of 0; 0 beyond the margin; each clip has its own."""
    real, made = torch.tensor([0.0, 2.0, 0.5]), torch.tensor([0.0, -3.0, 0.5])
    shaped = [v.view(3, 1, 1, 1, 1).expand(-1, 1, 2, 3, 3) for v in (real, made)]
    assert hinge_discriminator(*shaped).tolist() == [1.0, 0.0, 1.0]
    assert hinge_generator(shaped[0]).tolist() == [0.0, -2.0, -0.5]


def test_a_discriminator_learns_to_tell() -> None:
    """Sharp pictures and blurred ones are told apart within 40 steps: the hinge loss falls from 1 to a third."""
    model = judge(3)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sharp = random((4, 3, 2, 16, 16), 5)
    blurred = torch.nn.functional.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
    losses = []
    for _ in range(40):
        loss = hinge_discriminator(model(sharp), model(blurred)).mean()
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        losses.append(float(loss))
    assert 0.8 < losses[0] < 1.3 and losses[-1] < 0.33, losses[::8]


def test_the_gradient_at_the_pixels_is_the_whole_of_the_adversarial_loss() -> None:
    """Back-propagating sum(x_hat * g) through the generator gives its weights the gradient that the discriminator's loss would give, and
    the discriminator none: what ZeRO-3 can do equals what it cannot."""
    generator, model = torch.nn.Conv3d(3, 3, 3, padding=1), judge()
    x = random((2, 3, 3, 8, 8))
    direct = torch.autograd.grad(hinge_generator(model(generator(x))).sum(), list(generator.parameters()))
    model.requires_grad_(False)
    made = generator(x)
    gradient = pixel_gradient(hinge_generator(model(made)), made)
    assert not gradient.requires_grad
    (made * gradient).sum().backward()
    for parameter, wanted in zip(generator.parameters(), direct, strict=True):
        assert torch.allclose(parameter.grad, wanted, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in model.parameters())


def test_the_adaptive_weight_makes_gradients_equally_long() -> None:
    """Each clip's own weight brings its adversarial gradient to the length of its reconstruction's; where the former vanishes the weight
    stays finite."""
    wanted, found = random((3, 3, 2, 4, 4), 1), random((3, 3, 2, 4, 4), 2) * torch.tensor([0.1, 5.0, 0.0]).view(3, 1, 1, 1, 1)
    weights = adaptive_weight(wanted, found)
    for b in range(2):
        assert torch.allclose((weights[b] * found[b]).norm(), wanted[b].norm(), rtol=1e-5)
    assert weights[2] == 1e4


class Plain:
    """A module in the place of its engine: one process, no sharding."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, *inputs: Tensor) -> object:
        return self.module(*inputs)


SMALL = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)


def engines_of(task: AutoencoderTask) -> dict[str, Plain]:
    """The task's modules as they begin."""
    return {name: Plain(module) for name, module in task.modules().items()}


def batch_of(x: Tensor, step: int = 0, clips: tuple[str, ...] = ("a", "b")) -> Batch:
    """These pixels as a batch."""
    return Batch(step=step, kind="video", pixels=x, clip_ids=clips, epochs=(0,) * len(clips))


def gradient_of(task: AutoencoderTask, engines: dict[str, Plain], batch: Batch) -> tuple[Tensor, Tensor]:
    """(losses, all gradients of the autoencoder in one row) of its update."""
    loss = task.loss("autoencoder", engines, batch, batch.pixels).total
    gradients = torch.autograd.grad(loss.mean(), list(engines["autoencoder"].module.parameters()), materialize_grads=True)
    return loss.detach(), torch.cat([g.flatten() for g in gradients])


def test_the_adversary_changes_the_gradient_and_not_the_logged_loss() -> None:
    """With an adversary the loss is the same number and its gradient another one; before its start step the gradient is the same too."""
    x = random((2, 3, 2, 16, 16), 1)
    without = AutoencoderTask("tae", SMALL, TAELossConfig(), 0)
    adversarial = AutoencoderTask("tae", SMALL, TAELossConfig(gan_weight=0.5, gan_start_step=3, discriminator=TINY), 0)
    loss, gradient = gradient_of(without, engines_of(without), batch_of(x))
    for step, same in ((2, True), (3, False)):
        found = gradient_of(adversarial, engines_of(adversarial), batch_of(x, step))
        assert torch.equal(found[0], loss) and torch.allclose(found[1], gradient, rtol=0, atol=1e-9) == same


def test_both_updates_see_one_reconstruction_and_leave_each_other_alone() -> None:
    """The discriminator's update judges what the autoencoder made in its own, though its weights moved since; neither update leaves a
    gradient on the other's weights; the discriminator can learn afterwards."""
    task = AutoencoderTask("tae", SMALL, TAELossConfig(gan_weight=0.5, discriminator=TINY), 0)
    engines, x = engines_of(task), random((2, 3, 2, 16, 16), 1)
    model, adversary = (engines[name].module for name in ("autoencoder", "discriminator"))
    found = task.loss("autoencoder", engines, batch_of(x), x)
    found.total.mean().backward()
    assert set(found.parts) == {"l1", "kl", "outlier", "adversarial"}
    assert all(p.grad is None and p.requires_grad for p in adversary.parameters())
    before = [p.grad.clone() for p in model.parameters()]
    for p in model.parameters():
        p.data.zero_()
    judged = task.loss("discriminator", engines, batch_of(x), x)
    judged.total.mean().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adversary.parameters())
    # as the adversary has not moved in between, the mean logit of what was made is minus the hinge that the autoencoder heard
    assert torch.allclose(judged.parts["made"], -found.parts["adversarial"], atol=1e-6)


def test_a_clips_adversarial_gradient_is_its_own() -> None:
    """The gradient of two clips together is the mean of each alone: so any number of processes trains the same."""
    task = AutoencoderTask("tae", SMALL, TAELossConfig(gan_weight=0.5, discriminator=TINY), 0)
    engines, x = engines_of(task), random((2, 3, 2, 16, 16), 1)
    _, together = gradient_of(task, engines, batch_of(x))
    alone = [gradient_of(task, engines, batch_of(x[i : i + 1], clips=(name,)))[1] for i, name in enumerate("ab")]
    assert torch.allclose(together, (alone[0] + alone[1]) / 2, rtol=1e-3, atol=1e-7)


def test_the_perceptual_loss_counts_and_its_frames_are_drawn_by_key(alexnet: Path) -> None:
    """It is logged, weighted, and part of the gradient; with all frames it is the mean of each frame's; with fewer, a clip's draw depends
    on the clip and not on its place."""
    settings = {"perceptual_net": "alex", "perceptual_features": str(alexnet), "kl_weight": 0.0, "outlier_weight": 0.0}
    x = random((2, 3, 3, 32, 32), 1)
    parts = {}
    for frames in (0, 2):
        task = AutoencoderTask("tae", SMALL, TAELossConfig(perceptual_weight=0.5, perceptual_frames=frames, **settings), 0)
        engines = engines_of(task)
        found = task.loss("autoencoder", engines, batch_of(x), x)
        assert torch.allclose(found.total, found.parts["l1"] + 0.5 * found.parts["perceptual"])
        parts[frames] = found.parts["perceptual"]
        swapped = task.loss("autoencoder", engines, batch_of(x.flip(0), 7, ("b", "a")), x.flip(0))
        assert torch.allclose(swapped.parts["perceptual"].flip(0), parts[frames], rtol=1e-4)
    assert not torch.allclose(parts[0], parts[2], rtol=1e-4)
    _, gradient = gradient_of(task, engines, batch_of(x))
    plain = AutoencoderTask("tae", SMALL, TAELossConfig(kl_weight=0.0, outlier_weight=0.0), 0)
    assert not torch.allclose(gradient, gradient_of(plain, engines_of(plain), batch_of(x))[1], atol=1e-5)
