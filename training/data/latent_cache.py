"""What the autoencoder makes of clips, made beforehand: kept by content, weights and what was done, never by row.

    <folder>/tae-<16 digits of the weights' SHA-256>/<2 digits>/<SHA-256 of the payload>-<16 digits of what was done>.safetensors

What was done: window, size and rate of the frames, the precision that was computed in, and the whole digest of the weights. So a folder
can be shared by runs and datasets and never answers for other pixels; and what came of a payload is found by the payload alone. A file
that is damaged counts as not there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.files import write_atomic
from manifests.ids import digest
from training.data.config import DataConfig
from training.data.index import Sample
from training.data.sample import transform_of

if TYPE_CHECKING:
    from torch import Tensor

ENCODING = "mean, tiles of 32 frames/v2"
"""Names what `LatentCodec.mean` computes: another way to the mean is another name, so that no old latent answers for it."""


class LatentCache:
    """Means made by the autoencoder with these weights, computing in `precision`. Several processes may share a folder."""

    def __init__(self, folder: Path, tae_sha256: str, precision: str) -> None:
        self._folder, self._sha256, self._precision = folder / f"tae-{tae_sha256[:16]}", tae_sha256, precision

    def path(self, sample: Sample, config: DataConfig) -> Path:
        """Where the sample's mean lies, if it was made."""
        done = digest("latent/v1", ENCODING, self._sha256, self._precision, transform_of(sample, config))
        name = sample.sha256.hex()
        return self._folder / name[:2] / f"{name}-{done[:16]}.safetensors"

    def has(self, sample: Sample, config: DataConfig) -> bool:
        """Whether there is a file for it; only `read` says whether it is whole."""
        return self.path(sample, config).exists()

    def read(self, sample: Sample, config: DataConfig) -> "Tensor | None":
        """The mean (C, T/8, H/8, W/8), float32; None when it was not made or is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.path(sample, config).read_bytes())["mean"].float()
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def write(self, sample: Sample, config: DataConfig, mean_CTHW: "Tensor") -> None:
        """The mean is kept, in the precision it was computed in."""
        import torch
        from safetensors.torch import save

        dtype = torch.bfloat16 if self._precision == "bf16" else torch.float32
        write_atomic(self.path(sample, config), save({"mean": mean_CTHW.to("cpu", dtype).contiguous()}))


def forget_latents(folder: Path, sha256s: Iterable[bytes]) -> int:
    """No latents of these payloads are in the folder of a `LatentCache`, whatever weights made them; returns how many files were."""
    found = [path for name in (s.hex() for s in sha256s) for path in folder.glob(f"tae-*/{name[:2]}/{name}-*.safetensors")]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)
