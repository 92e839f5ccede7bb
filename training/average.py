"""Plain averaging of several trainings' weights into one model, as the paper makes its finetuned model (Movie Gen, Finetuning)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.files import write_atomic
from training.errors import TrainingError
from training.export import CONFIG, WEIGHTS
from training.latents import read_export


def average_exports(folders: Sequence[Path], out: Path) -> Path:
    """`out` holds an export whose every weight is the mean of those of the exports, summed in float64; its description names them.

    TrainingError unless all build the same model on the same latents. Its memory is that of two models.
    """
    from safetensors.torch import save

    described, total = read_export(folders[0], "")
    total = {name: value.double() for name, value in total.items()}
    digests = [described["sha256"]]
    for folder in folders[1:]:
        other, state = read_export(folder, "")
        for key in ("model", "latents", "text_keys"):
            if other.get(key) != described.get(key):
                raise TrainingError(f"{folder}: expected {key} as of {folders[0]}, {described.get(key)}, found {other.get(key)}")
        for name in total:
            total[name] += state[name]
        digests.append(other["sha256"])
    data = save({name: (value / len(folders)).float().contiguous() for name, value in total.items()})
    own: dict[str, Any] = {**described, "weights": "mean", "average_of": digests, "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(out / WEIGHTS, data)
    write_atomic(out / CONFIG, json.dumps(own, indent=1).encode())  # last: who asks whether it is the average looks here
    return out


def is_average_of(out: Path, folders: Sequence[Path]) -> bool:
    """Whether `out` holds the average of what the folders export now, as descriptions say: no weights are read."""
    if not (out / CONFIG).exists():
        return False
    own = json.loads((out / CONFIG).read_bytes()).get("average_of")
    return bool(own == [json.loads((f / "export" / CONFIG).read_bytes()).get("sha256") for f in folders])
