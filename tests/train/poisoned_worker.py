"""A worker in which the loss of the clip named by POISON is not a number in its first pass."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from training import worker
from training.data.batch import Batch
from training.tasks.autoencoder import AutoencoderTask
from training.tasks.task import SampleLoss


class Poisoned(AutoencoderTask):
    """The autoencoder's task but for one loss."""

    def loss(self, update: str, engines: Mapping[str, Any], batch: Batch, pixels: Tensor) -> SampleLoss:
        """The loss, times NaN for the poisoned clip."""
        found = super().loss(update, engines, batch, pixels)
        keys = zip(batch.clip_ids, batch.epochs, strict=True)
        factor = [float("nan") if key == (os.environ["POISON"], 0) else 1.0 for key in keys]
        return SampleLoss(found.total * found.total.new_tensor(factor), found.parts, found.bins)


if __name__ == "__main__":
    from training.tasks import make

    make.AutoencoderTask = Poisoned
    worker.main(Path(sys.argv[1]))
