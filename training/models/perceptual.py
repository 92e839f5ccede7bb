"""The perceptual distance LPIPS between pictures: differences of a frozen network's features, weighted by channel.

The arithmetic and the channels' weights are torchmetrics' (the latter travel inside its wheel); the features of VGG-16 or AlexNet are
torchvision's ImageNet weights and are read from a local file, never fetched. Source: Zhang et al., The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric, 2018.

Shapes: N pictures, H and W; x_N3HW in [-1, 1]. AlexNet needs pictures of at least 32 pixels, VGG-16 of 16.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.errors import TrainingError

PerceptualNet = Literal["vgg", "alex"]

FILES: dict[PerceptualNet, str] = {
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
}
"""Where the public files are, for the message that asks for them."""

MIN_SIDE_PX: dict[PerceptualNet, int] = {"vgg": 16, "alex": 32}


class Perceptual:
    """LPIPS with frozen weights, on any device; it is not trained, so it is no part of an engine."""

    def __init__(self, net: PerceptualNet, features: str, linear: str = "") -> None:
        """`features` is torchvision's file (.pth or .safetensors) of the whole network; `linear` the channels' weights, '' for
        torchmetrics' own. TrainingError says which file is missing or does not fit, and what to fetch."""
        self._name, self._net = net, _load(net, Path(features), linear)

    def __call__(self, x_N3HW: Tensor, target_N3HW: Tensor) -> Tensor:
        """The distance of each pair of pictures, (N,), float32; differentiable in both. 0 for equal pictures."""
        if min(x_N3HW.shape[-2:]) < MIN_SIDE_PX[self._name]:
            found = tuple(x_N3HW.shape[-2:])
            raise TrainingError(
                f"loss.perceptual_net {self._name}: expected at least {MIN_SIDE_PX[self._name]} pixels a side, found {found}"
            )
        if next(self._net.parameters()).device != x_N3HW.device:
            self._net.to(x_N3HW.device)
        distances: Tensor = self._net(x_N3HW.float(), target_N3HW.float()).flatten()
        return distances


def _load(net: PerceptualNet, features: Path, linear: str) -> nn.Module:
    """torchmetrics' LPIPS module with these weights, frozen, in evaluation mode."""
    import torchmetrics
    from torchmetrics.functional.image.lpips import ScalingLayer, _NoTrainLpips

    channels = Path(linear) if linear else Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    found = _read(features, f"loss.perceptual_features: expected torchvision's weights, such as {FILES[net]}")
    found |= _read(channels, f"loss.perceptual_linear: expected the LPIPS weights of {net}")
    with torch.device("meta"):  # no memory and no random draws for weights that are replaced at once
        module = _NoTrainLpips(pretrained=False, pnet_rand=True, net=net)
    module.scaling_layer = ScalingLayer()  # its buffers are constants, made by its constructor
    state = {}
    for name, wanted in module.state_dict().items():
        # torchmetrics keeps torchvision's layer numbers below its slices: net.slice2.5.bias is features.5.bias
        key = "features." + name.split(".", 2)[2] if name.startswith("net.") else name
        value = found.get(key, found.get(name.replace("lins.", "lin")))
        if value is None or value.shape != wanted.shape:
            shape = None if value is None else tuple(value.shape)
            raise TrainingError(f"{features}: {key}: expected shape {tuple(wanted.shape)}, found {shape}; {net} is {FILES[net]}")
        state[name] = value.float()
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _read(path: Path, expected: str) -> dict[str, Any]:
    """The tensors of a .safetensors or .pth file; nothing in the latter is run."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch and safetensors raise many types on a foreign file; each is the same news
        raise TrainingError(
            f"{expected}, at {path}, found {str(error)[:200]}; fetch it on a machine with a network and put it there, "
            "or set loss.perceptual_weight=0"
        ) from error
