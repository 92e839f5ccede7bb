"""Checkpoints are whole or refused, readable by any number of ranks, and the log after a kill is the log without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import checkpoint, launch
from training.config import TrainConfig
from training.data.batch import Replaced
from training.errors import CheckpointError, TrainingError
from training.export import export_weights
from training.folder import adopt, locked, mark_done, read_run, steps_done, write_run
from training.metrics import LOG, MetricsWriter, read_log
from training.parallel.slices import read_span, span
from training.pictures import write_pictures
from training.worker import is_orphan

SHAPES = {"a.weight": (5, 3), "b.bias": (1,), "c": (7,)}


def values(kind: str, name: str) -> torch.Tensor:
    """A parameter's whole value, different for every kind and name."""
    numel = int(torch.Size(SHAPES[name]).numel())
    return torch.arange(numel, dtype=torch.float32) + 100 * len(kind) + len(name)


def write(out: Path, step: int, world: int = 2) -> Path:
    """A complete checkpoint as `world` ranks write it."""
    checkpoint.begin(out, step)
    for rank in range(world):
        state = {}
        for name in SHAPES:
            start, end = span(values("weight", name).numel(), rank, world)
            state |= {f"{kind}/{name}": values(kind, name)[start:end].clone() for kind in ("weight", "exp_avg", "exp_avg_sq", "ema")}
        swap = Replaced(step=rank, place=0, planned="p", used="u", reason="r").row()
        checkpoint.write_rank(out, step, rank, world, state, [swap])
    record = {"manifest_version": 0, "plan_digest": "d", "rolling_digest": "r"}
    return checkpoint.finish(out, step, world, SHAPES, lambda exceptions: {**record, "end_step": step, "exceptions": exceptions})


@given(st.integers(0, 200), st.integers(1, 17), st.integers(1, 17))
@settings(deadline=None)
def test_any_world_reads_what_another_wrote(numel: int, saved: int, reading: int) -> None:
    """Pieces partition a parameter, and the pieces of any new world put together are the parameter."""
    whole = torch.arange(numel, dtype=torch.float32)
    pieces = [whole[slice(*span(numel, rank, saved))] for rank in range(saved)]
    assert torch.equal(torch.cat(pieces), whole)
    read = [read_span(*span(numel, rank, reading), numel, saved, lambda r, i, j: pieces[r][i:j]) for rank in range(reading)]
    assert torch.equal(torch.cat(read), whole)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_a_checkpoint_of_two_ranks_is_read_by_any_number(tmp_path: Path, world: int) -> None:
    """Weights, moments and averages come back exactly, in new pieces."""
    write(tmp_path, 10)
    info = checkpoint.newest(tmp_path)
    assert info is not None and info.step == 10 and [e["step"] for e in info.exposure["exceptions"]] == [0, 1]
    readers = [checkpoint.Reader(info, rank, world) for rank in range(world)]
    for name in SHAPES:
        for kind in ("weight", "exp_avg", "exp_avg_sq", "ema"):
            assert torch.equal(torch.cat([r.piece(kind, name) for r in readers]), values(kind, name))
            assert torch.equal(readers[0].whole(kind, name), values(kind, name).reshape(SHAPES[name]))


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    """A checkpoint of a model with other parameters is not loaded in part."""
    write(tmp_path, 10)
    reader = checkpoint.Reader(checkpoint.list_complete(tmp_path)[0], 0, 1)
    reader.check_shapes(SHAPES)
    with pytest.raises(CheckpointError, match=r"parameter c: expected shape \[8\], found \[7\]"):
        reader.check_shapes({**SHAPES, "c": (8,)})


DAMAGES = {
    "a state file with one flipped bit": lambda p: flip(p / "state-00001-of-00002.safetensors"),
    "a truncated state file": lambda p: cut(p / "state-00000-of-00002.safetensors"),
    "a missing state file": lambda p: (p / "state-00000-of-00002.safetensors").unlink(),
    "a changed exposure record": lambda p: flip(p / "exposure.json"),
    "a manifest that is not JSON": lambda p: cut(p / "manifest.json"),
    "a manifest without its fields": lambda p: (p / "manifest.json").write_text(json.dumps({"format": checkpoint.FORMAT})),
    "no manifest": lambda p: (p / "manifest.json").unlink(),
}


def flip(path: Path) -> None:
    """One bit in the middle of the file is another."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The file has lost its second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """The newest complete one wins; a damaged newer one is refused by name."""
    write(tmp_path, 10)
    DAMAGES[damage](write(tmp_path, 20))
    info = checkpoint.newest(tmp_path)
    assert info is not None and info.step == 10
    assert "step-00000020" in caplog.text and "expected" in caplog.text


def test_a_checkpoint_killed_while_written_is_not_seen(tmp_path: Path) -> None:
    """Under its temporary name a checkpoint does not count, and the next attempt begins afresh."""
    write(tmp_path, 10)
    folder = checkpoint.begin(tmp_path, 20)
    (folder / "state-00000-of-00002.safetensors").write_bytes(b"half")
    assert [c.step for c in checkpoint.list_complete(tmp_path)] == [10]
    assert write(tmp_path, 20).name == "step-00000020"
    assert [c.step for c in checkpoint.list_complete(tmp_path, verify=True)] == [10, 20]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Pruning counts complete checkpoints: a damaged one does not push out the last good one."""
    for step in (10, 20, 30):
        write(tmp_path, step)
    (checkpoint.list_complete(tmp_path)[-1].path / "manifest.json").unlink()
    checkpoint.prune(tmp_path, 2)
    assert [c.step for c in checkpoint.list_complete(tmp_path)] == [10, 20]
    checkpoint.prune(tmp_path, 1)
    assert [c.step for c in checkpoint.list_complete(tmp_path)] == [20]


def test_export_holds_the_averaged_weights(tmp_path: Path) -> None:
    """The exported file is the whole model's averages by name, with its hash and what it has seen beside it."""
    from safetensors.torch import load_file

    write(tmp_path, 10)
    path = export_weights(checkpoint.list_complete(tmp_path)[0], "tae", {"model": {"base_channels": 8}}, tmp_path / "export")
    weights, description = load_file(path), json.loads((tmp_path / "export" / "config.json").read_text())
    assert all(torch.equal(weights[n], values("ema", n).reshape(s)) for n, s in SHAPES.items())
    assert description["step"] == 10 and description["plan_digest"] == "d" and len(description["sha256"]) == 64


def test_the_log_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    """After a restart at step 2, lines of later steps and a half-written one are gone; numbers keep every bit."""
    first = MetricsWriter(tmp_path, 0)
    for step in range(4):
        first.write("train", step, {"loss": 0.1 + step / 3})
    first.close()
    with (tmp_path / LOG).open("a") as log:
        log.write('{"kind": "train", "step": 4, "lo')
    again = MetricsWriter(tmp_path, 2)
    again.write("train", 2, {"loss": 0.5})
    again.close()
    rows = read_log(tmp_path, "train")
    assert [(r["step"], r["loss"]) for r in rows] == [(0, 0.1), (1, 0.1 + 1 / 3), (2, 0.5)]


def test_a_run_keeps_its_configuration(tmp_path: Path) -> None:
    """A restart may change how long and on how many processes; any other change is refused and named."""
    config = TrainConfig(steps=10)
    write_run(config, tmp_path, tmp_path, [], 3)
    adopt(TrainConfig(steps=20, processes=2), tmp_path, tmp_path)
    run = read_run(tmp_path)
    assert (run.config.steps, run.config.processes, run.manifest_version) == (20, 2, 3)
    with pytest.raises(TrainingError, match="seed 0 -> 1"):
        adopt(TrainConfig(seed=1), tmp_path, tmp_path)
    with pytest.raises(TrainingError, match="expected the dataset this run began with"):
        adopt(config, tmp_path / "other", tmp_path)
    assert steps_done(tmp_path) == 0
    mark_done(tmp_path, 20)
    assert steps_done(tmp_path) == 20


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    """The second one is told that the folder is in use; afterwards it is free again."""
    with locked(tmp_path), pytest.raises(TrainingError, match="found one running"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_pictures_put_originals_above_reconstructions(tmp_path: Path) -> None:
    """Each clip is two rows of up to 8 frames, also where an image stands among videos."""
    import numpy as np
    from PIL import Image

    video, image = torch.full((3, 12, 16, 16), 1.0), torch.full((3, 1, 16, 16), -1.0)
    write_pictures(tmp_path / "p.png", [video, image], [video * 0, image])
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (4 * 18, 8 * 18, 3)
    assert (sheet[5, 5, 0], sheet[18 + 5, 5, 0], sheet[36 + 5, 5, 0]) == (255, 128, 0)


def test_a_launcher_runs_nothing_of_the_current_directory(tmp_path: Path) -> None:
    """What a run is started with finds our package, and not modules named as Python's, torch's or ours in the folder it is started in."""
    (tmp_path / "training").mkdir()
    for name in ("colorsys.py", "torch.py", "training/__init__.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n")
    code = "import importlib.util as u, colorsys; print(colorsys.__file__, u.find_spec('training').origin)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=launch.environment(1), capture_output=True, text=True, check=True)
    assert str(tmp_path) not in done.stdout and str(Path(launch.__file__).parent) in done.stdout
    assert not (tmp_path / "ran").exists()


def test_a_worker_without_its_launcher_is_an_orphan() -> None:
    """A process that torchrun started has it as its parent; where that is something else by now, or gone and unknown, it is told apart."""
    command = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(60)", "torch.distributed.run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout and launcher.stdout.readline()  # before it runs, the system has no command line of it
        assert not is_orphan(launcher.pid)
        launcher.kill()
    assert not is_orphan(launcher.pid)  # nobody may know
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        assert is_orphan(other.pid)
        other.kill()
