"""Copy descriptors from a TorchScript file, on a tiny network that the test makes."""

from pathlib import Path

import numpy as np
import pytest

from curation.adapters.sscd import CopyDescriptor, DescribeCopies, SscdConfig
from curation.adapters.weights import WeightsError
from curation.keyframes import KeyFrame, Picture, encode_jpeg
from manifests.records import Clip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network with SSCD's layout: the means of 4 x 4 cells, 48 numbers."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "tiny_sscd.torchscript.pt"
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    torch.jit.script(net).save(str(path))
    return str(path)


def picture(seed: int, side: int = 64) -> Picture:
    """A picture of smooth patches."""
    import cv2

    patches = np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(patches, (side * 2, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def item(*pictures: Picture, kind: str = "video") -> tuple[Clip, list[KeyFrame]]:
    clip = Clip(clip_id="c", asset_id="a", kind=kind, start_us=0, end_us=10_000_000)
    frames = [KeyFrame(asset_id="a", index=i, pts_us=i * 10**6, width=1, height=1, jpeg=encode_jpeg(p)) for i, p in enumerate(pictures)]
    return clip, frames


def test_the_middle_frame_is_described(weights: str) -> None:
    """A clip's vector is that of its middle frame alone, of length 1, and its model names file and digest."""
    stage = DescribeCopies(SscdConfig(weights=weights, batch=2))
    a, b, c = (picture(i) for i in range(3))
    clip, alone, copy = stage([item(a, b, c), item(b), item(picture(1, 96))])
    assert clip.vector == alone.vector and len(alone.vector or []) == 48
    assert np.linalg.norm(alone.vector) == pytest.approx(1) and (alone.model or "").startswith("tiny_sscd:")
    assert np.dot(alone.vector, copy.vector) > 0.999 > 0.9 > np.dot(alone.vector, stage([item(a)])[0].vector)


def test_what_cannot_be_described(weights: str) -> None:
    """Without weights, and of sound, nothing is described and nothing is wrong; a broken frame is the clip's error alone."""
    clip, _ = item()
    broken = KeyFrame(asset_id="a", index=0, pts_us=0, width=1, height=1, jpeg=b"\xff\xd8junk")
    bad, sound, good = DescribeCopies(SscdConfig(weights=weights))([(clip, [broken]), item(kind="audio"), item(picture(1))])
    assert (bad.vector, bad.error_code) == (None, "bad_keyframe") and sound == CopyDescriptor(clip_id="c") and good.vector
    assert DescribeCopies(SscdConfig())([item(picture(1))]) == [CopyDescriptor(clip_id="c")]


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """No file, a file that is no TorchScript, and a network of another shape are errors that say what was expected."""
    import torch

    with pytest.raises(WeightsError, match=r"sscd\.weights: expected a TorchScript file of SSCD.* found no file"):
        DescribeCopies(SscdConfig(weights=str(tmp_path / "absent.pt")))
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(WeightsError, match=r"sscd\.weights: expected a TorchScript file"):
        DescribeCopies(SscdConfig(weights=str(tmp_path / "text.pt")))
    zero = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(1e9, 0.0))
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "odd.pt"))
    with pytest.raises(WeightsError, match=r"expected descriptors \[1, d\]"):
        DescribeCopies(SscdConfig(weights=str(tmp_path / "odd.pt")))([item(picture(1))])
    torch.jit.script(zero).save(str(tmp_path / "zero.pt"))
    (found,) = DescribeCopies(SscdConfig(weights=str(tmp_path / "zero.pt")))([item(picture(1))])
    assert (found.vector, found.error_code) == (None, "model_failed") and "finite descriptors that are not zero" in (
        found.error_detail or ""
    )


def test_a_descriptor_that_is_no_number_is_its_clips_error(tmp_path: Path) -> None:
    """One black picture for which the network gives nan leaves the clips beside it, in the same pass, as they are."""
    import torch

    class Dark(torch.nn.Module):
        """Means of the picture's rows; nan where all is black."""

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            """[n, 3, s, s] -> [n, 3 s]."""
            means = pictures.mean(3).flatten(1)
            return torch.where(pictures.amax((1, 2, 3)).unsqueeze(1) < -1, means / 0 - means / 0, means)

    torch.jit.script(Dark()).save(str(tmp_path / "dark.pt"))
    stage = DescribeCopies(SscdConfig(weights=str(tmp_path / "dark.pt"), size_px=32))
    alone = stage([item(picture(1))])
    first, black, last = stage([item(picture(1)), item(np.zeros_like(picture(1))), item(picture(1))])
    assert [first] == [last] == alone and first.vector and first.error_code is None
    assert (black.vector, black.error_code) == (None, "model_failed") and "clip c: expected finite" in (black.error_detail or "")
