"""The trained weights as one safetensors file beside the configuration that builds the model: all that inference needs."""

import hashlib
import json
from pathlib import Path
from typing import Any

from manifests.files import write_atomic
from training.checkpoint import CheckpointInfo, Reader

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def export_weights(info: CheckpointInfo, stage: str, described: dict[str, Any], folder: Path) -> Path:
    """The averaged float32 weights of the checkpoint lie in `folder`, with what they are and what they have seen beside them.

    `described` is the task's description of its model. Read from the checkpoint's files, so no process has to gather the model. `weights.safetensors` is written last.
    """
    from safetensors.torch import save

    reader = Reader(info, 0, 1)
    data = save({name: reader.whole("ema", name).contiguous() for name in reader.names("ema")})
    description: dict[str, Any] = {
        "stage": stage,
        "step": info.step,
        "weights": "ema",
        **described,
        "sha256": hashlib.sha256(data).hexdigest(),
        "manifest_version": info.exposure["manifest_version"],
        "plan_digest": info.exposure["plan_digest"],
        "rolling_digest": info.exposure["rolling_digest"],
    }
    write_atomic(folder / CONFIG, json.dumps(description, indent=1).encode())
    write_atomic(folder / WEIGHTS, data)
    return folder / WEIGHTS
