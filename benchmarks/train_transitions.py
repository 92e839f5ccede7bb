"""Trains the small network of `curation/transitions.py` on generated joins of the `tune` half, and writes its weights beside the code.

    python benchmarks/train_transitions.py [--videos 420] [--out curation/transitions.npz]

Examples are whole generated videos (`benchmarks/joins.py`) as the observer sees them through real files, and the labelled videos of the
same half. A sample's label is whether its time lies inside a transition; samples at its very edges count little, ambiguous ones not at
all. Deterministic on one thread for a number of videos.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import joins
from benchmarks.decode import media_folder
from curation import transitions
from curation.cut_series import ShotObserver
from curation.scan import tracks_of
from curation.tracks import Track, Tracks, by_name

CHANNELS = 40
_REAL_TIMES = 3  # how often a real video is shown for each time a generated one is
_FULL_US = 60_000  # a sample so far inside or outside of a transition counts in full


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs [n, features], labels [n] in {0, 1} and weights [n] of one video."""

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def example(found: Tracks, gradual: list[tuple[int, int]], ignored: list[tuple[int, int]]) -> Example:
    """A video's samples, labelled."""
    samples, shots = found["transitions"], found["shots"]
    return Example(transitions.inputs(samples, shots), *labels(samples, gradual, ignored))


def labels(samples: Track, gradual: list[tuple[int, int]], ignored: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each sample lies in a transition, and how much it counts."""
    times = samples.pts_us
    label, weight = np.zeros(len(times), np.float32), np.ones(len(times), np.float32)
    for start, end in gradual:
        inside = (times >= start - _FULL_US) & (times <= end)
        if not inside.any():  # shorter than the spacing: the nearest sample stands for it
            inside = np.arange(len(times)) == np.abs(times - (start + end) // 2).argmin()
        label[inside] = 1
        for edge in (start, end):
            weight[np.abs(times - edge) < _FULL_US] = 0.3
    for start, end in ignored:
        weight[(times >= start - 250_000) & (times <= end + 250_000)] = 0
    return label, weight


def generated(media: Path, count: int) -> Iterable[Example]:
    """Generated videos of the `tune` half."""
    found: list[Example] = []
    with tempfile.TemporaryDirectory() as folder:

        def keep(joined: joins.Joined, path: Path) -> None:
            tracks = by_name(tracks_of(str(path), [ShotObserver()]))
            found.append(example(tracks, [(b.start_us, b.end_us) for b in joined.truth if b.kind != "hard"], []))

        joins.videos(media, "tune", Path(folder), count, 1, keep)
    return found


def real(media: Path) -> Iterable[Example]:
    """The labelled videos of the `tune` half."""
    from benchmarks.accuracy_shots import labelled

    groups = joins.copy_groups(media)
    for entry in json.loads((media / "cuts.json").read_text())["entries"]:
        if joins.half_of(joins.content_of(entry["file"], groups)) == "tune":
            tracks = by_name(tracks_of(str(media / entry["file"]), [ShotObserver()]))
            truth = labelled(entry, tracks["shots"].pts_us)
            yield example(tracks, [(a, b) for a, b, _ in truth.gradual], truth.ambiguous)


def train(examples: list[Example], epochs: int = 60, seed: int = 7) -> dict[str, np.ndarray]:
    """Weights by the names `transitions.probabilities` reads."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    sizes = [examples[0].inputs.shape[1], *[CHANNELS] * (len(transitions.LAYERS) - 1), 1]
    layers: list[nn.Module] = []
    for i, (dilation, wide) in enumerate(transitions.LAYERS):
        layers.append(nn.Conv1d(sizes[i], sizes[i + 1], 3 if wide else 1, dilation=dilation, padding=dilation if wide else 0))
        layers += [nn.ReLU(), nn.Dropout(0.25)] if wide else []
    network = nn.Sequential(*layers)
    steps = epochs * (len(examples) // 8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    order = np.random.Generator(np.random.Philox(key=seed))
    for _ in range(epochs):
        shuffled = order.permutation(len(examples))
        for at in range(0, len(examples) // 8 * 8, 8):
            x, y, w = _batch([examples[i] for i in shuffled[at : at + 8]], order)
            logits = network(torch.from_numpy(x))[:, 0]
            loss = (
                nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y), torch.from_numpy(w), reduction="sum") / w.sum()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    convolutions = [m for m in network if isinstance(m, nn.Conv1d)]
    weights = {f"w{i}": m.weight.detach().numpy() for i, m in enumerate(convolutions)}
    return weights | {f"b{i}": m.bias.detach().numpy() for i, m in enumerate(convolutions) if m.bias is not None}


def _batch(examples: list[Example], rng: np.random.Generator, length: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of the same length at random places: inputs [n, features, length], labels and weights [n, length]; zeros beyond an end."""
    x = np.zeros((len(examples), examples[0].inputs.shape[1], length), np.float32)
    y, w = np.zeros((len(examples), length), np.float32), np.zeros((len(examples), length), np.float32)
    for k, e in enumerate(examples):
        start = int(rng.integers(0, max(1, len(e.labels) - length + 1)))
        part = slice(start, min(start + length, len(e.labels)))
        n = part.stop - part.start
        noise = rng.normal(0, 0.05, (n, x.shape[1])).astype(np.float32)
        x[k, :, :n], y[k, :n], w[k, :n] = (e.inputs[part] + noise).T, e.labels[part], e.weights[part]
    return x, y, w


def main() -> None:
    """Generates, trains, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=420, help="generated videos")
    parser.add_argument("--out", type=Path, default=transitions.WEIGHTS)
    options = parser.parse_args()
    media = media_folder()
    # The real videos are few and hold what no generator thinks of.
    weights = train([*generated(media, options.videos), *(_REAL_TIMES * list(real(media)))])
    np.savez(options.out, **{name: w.astype(np.float16) for name, w in weights.items()})  # type: ignore[arg-type]
    print(f"{sum(w.size for w in weights.values())} weights, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
