"""A whole curriculum by its command: killed, resumed, averaged, held at a gate; traced back to its clips; launched by hand on two nodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from safetensors.torch import load_file

from manifests.release_file import read_release
from manifests.tables import ManifestStore
from pipelines.exposures import register
from pipelines.release import release
from training import checkpoint
from training.data.index import frozen_version, load_samples
from training.errors import TrainingError
from training.exports import find_exports
from training.folder import adopt, read_run
from training.metrics import read_log

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]

ROOT = Path(checkpoint.__file__).parent.parent
SMALL = "processes=1, validate_every=100, checkpoint_every=1, pictures=0, data.n_frames=9, data.resize_px=48, data.global_batch=2, data.validate_clips=2"
CURRICULUM = f"""# @package _global_
preset: tiny
release: v1
stages:
  tae:
    overrides: [steps=1, {SMALL}, model.base_channels=4, model.norm_groups=1]
    must_improve: null
  t2v_256:
    tae: tae
    overrides: [steps=3, {SMALL}, flow.sampler.steps=2, flow.model.layers=1, flow.model.width=32]
    must_improve: null
  video_sft:
    tae: tae
    parent: t2v_256
    overrides: [steps=1, {SMALL}, data.size_px=48, flow.sampler.steps=2, flow.model.layers=1, flow.model.width=32, optim.lr=0.01]
    runs:
      - [seed=0]
      - [seed=1]
    must_improve: 0.9
"""


def dailies(*arguments: object, **extra: str) -> subprocess.Popen[str]:
    """The command, started."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output(*arguments: object, status: int = 0) -> str:
    """What the command printed, which ended with the status."""
    process = dailies(*arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == status, said[-4000:]
    return said


@pytest.fixture(scope="module")
def data(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of its own, as exposures are written to it, with a release and a clip that was dropped since."""
    copy = tmp_path_factory.mktemp("curriculum") / "dataset"
    shutil.copytree(dataset, copy)
    release(copy, "v1", None, None, lambda step: None)
    store = ManifestStore(copy)
    clips = store.read("clips")
    dropped = ["drop", *clips["decision"].to_pylist()[1:]]
    store.commit("decide", replace={"clips": clips.set_column(clips.column_names.index("decision"), "decision", pa.array(dropped))})
    return copy


@pytest.fixture(scope="module")
def trained(data: Path, processes: type, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a curriculum that was killed with all its processes in its second stage, then resumed, and held at its last gate."""
    out = tmp_path_factory.mktemp("trained") / "out"
    recipe = out.parent / "recipe.yaml"
    recipe.write_text(CURRICULUM)
    process = dailies("curriculum", "run", "--data", data, "--out", out, "--config", recipe)
    second = out / "t2v_256"
    processes.wait_for(lambda: process.poll() is not None or len(read_log(second, "train")) >= 1, 300)
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    processes.wait_for(lambda: not processes.workers(second), 60)
    said = output("curriculum", "resume", out, status=1)  # the last stage cannot have improved by nine tenths
    assert "did not improve enough" in said
    return out


def test_a_killed_curriculum_goes_on_and_stops_at_a_gate(trained: Path) -> None:
    """Every stage is trained to its end; those that were asked for nothing have passed, and the one that had to improve has failed."""
    states = json.loads(output("curriculum", "status", trained, "--json"))
    assert [(s["name"], s["state"], s["step"], s["steps"]) for s in states] == [
        ("tae", "passed", 1, 1),
        ("t2v_256", "passed", 3, 3),
        ("video_sft", "failed", 1, 1),
    ]
    assert all(s["last_sign_s"] is not None and s["before"] is not None and s["after"] is not None for s in states)
    gate = json.loads((trained / "video_sft" / "gate.json").read_text())
    assert not gate["passed"] and [r["run"] for r in gate["runs"]] == ["run-0", "run-1"]
    assert [r["step"] for r in read_log(trained / "t2v_256", "train")] == [0, 1, 2]


def test_every_stage_trains_on_the_release(trained: Path, data: Path) -> None:
    """Whatever was decided or recorded since, all stages have the release's version and clips, their exports name it and its root, and
    neither another name nor another release is taken for it."""
    version, known = frozen_version(data, "v1")
    assert known and known["merkle_root"] == read_release(data / "releases" / "v1").root and version < ManifestStore(data).version()
    for folder in (trained / "tae", trained / "t2v_256", trained / "video_sft" / "run-1"):
        run = read_run(folder)
        assert (run.manifest_version, run.release) == (version, known) and run.samples == load_samples(data, version)
        assert json.loads((folder / "export" / "config.json").read_text())["release"] == known
    assert len(load_samples(data, ManifestStore(data).version())) == len(load_samples(data, version)) - 1
    assert {e.stage: e.note["release"] for e in find_exports([trained])} == dict.fromkeys(("tae", "t2v_256", "video_sft"), known)
    for name in ("v2", "../v1", "/v1"):
        with pytest.raises(TrainingError, match="expected a release"):
            frozen_version(data, name)
    for other in ({**known, "name": "v2"}, {**known, "merkle_root": "0" * 64}):  # another one, or one of that name made anew
        with pytest.raises(TrainingError, match=f"expected release v1.* which this run began with, found release {other['name']}"):
            adopt(run.config, run.dataset, folder, other)
    moved = shutil.copytree(data / "releases", data.parent / "moved" / "releases")
    ManifestStore(moved.parent).commit("other", append={"clips": ManifestStore(data).read("clips")})
    with pytest.raises(TrainingError, match="another dataset's"):
        frozen_version(moved.parent, "v1")


def test_runs_are_averaged(trained: Path) -> None:
    """The stage with two runs leaves the mean of their weights, which differ."""
    runs = [load_file(trained / "video_sft" / f"run-{i}" / "export" / "weights.safetensors") for i in (0, 1)]
    mean = load_file(trained / "video_sft" / "average" / "weights.safetensors")
    for name, value in mean.items():
        assert value.allclose((runs[0][name] + runs[1][name]) / 2, atol=1e-7)
    assert any(not runs[0][name].equal(runs[1][name]) for name in mean)


def test_checkpoints_and_clips_are_traced(trained: Path, data: Path) -> None:
    """Replaying a checkpoint's plan gives its recorded digest and its clips by source and licence; a clip finds that checkpoint again, and the
    later stages that inherited it, also where a run's settings have other names than today; a checkpoint whose record was changed does not hold."""
    folder = trained / "t2v_256" / "checkpoints" / "step-00000003"
    found = json.loads(output("trace", "--checkpoint", folder, "--json"))
    assert found["holds"] and found["replayed_digest"] == found["recorded_digest"] and found["end_step"] == 3
    assert sum(s["clips"] for s in found["shares"]) == len(found["clips"]) > 0
    clip, step = max(found["clips"].items(), key=lambda item: item[1])
    seen = json.loads(output("trace", data, "--clip", clip[:12], "--json"))
    assert seen["clip_id"] == clip
    own = [s for s in seen["checkpoints"] if s["run"].endswith("t2v_256") and s["checkpoint"].endswith("step-00000003")]
    assert [s["first_step"] for s in own] == [step]
    assert {Path(s["run"]).name for s in seen["checkpoints"] if s["stage"] == "video_sft"} == {"run-0", "run-1"}
    copy = trained.parent / "copy"
    shutil.copytree(trained / "t2v_256", copy)
    written = json.loads((copy / "run.json").read_text())
    written["config"]["printed_every"] = written["config"].pop("log_every")
    (copy / "run.json").write_text(json.dumps(written))
    register(data, copy)
    runs = {Path(s["run"]).name for s in json.loads(output("trace", data, "--clip", clip, "--json"))["checkpoints"]}
    assert "copy" in runs and json.loads(output("trace", "--checkpoint", copy / "checkpoints" / "step-00000003", "--json"))["holds"]
    path = copy / "checkpoints" / "step-00000003" / "exposure.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "rolling_digest": "0" * 32}))
    output("trace", "--checkpoint", path.parent, status=2)  # the checkpoint's own hash has noticed


def test_another_curriculum_needs_another_folder(trained: Path, data: Path) -> None:
    """A folder is not continued with other settings, and what cannot be trained is said before anything is."""
    recipe = trained.parent / "other.yaml"
    recipe.write_text(CURRICULUM.replace("steps=3", "steps=4"))
    assert "use another --out" in output("curriculum", "run", "--data", data, "--out", trained, "--config", recipe, status=2)
    recipe.write_text(CURRICULUM.replace("data.n_frames=9", '"data.sets=[absent]"'))
    said = output("curriculum", "run", "--data", data, "--out", trained.parent / "new", "--config", recipe, status=2)
    assert "data.sets: expected clips of absent" in said and not (trained.parent / "new" / "tae").exists()


def test_the_launch_script_trains_on_two_nodes(data: Path, tmp_path: Path) -> None:
    """A run that was only prepared is trained by docs/launch/torchrun.sh, started once for each of two nodes; then its exposures are recorded."""
    out = tmp_path / "run"
    arguments = [
        "train",
        "tae",
        "--data",
        data,
        "--out",
        out,
        "--launcher",
        "none",
        *SMALL.replace("processes=1", "processes=2").split(", "),
        "steps=1",
    ]
    assert "docs/launch/torchrun.sh" in output(*arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    nodes = []
    for rank in range(2):
        placed = {"RUN": str(out), "NODES": "2", "NODE_RANK": str(rank), "PROCESSES": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        nodes.append(subprocess.Popen([ROOT / "docs" / "launch" / "torchrun.sh"], env={**os.environ, **placed, **path}))
    assert [node.wait(300) for node in nodes] == [0, 0]
    before = ManifestStore(data).read("exposures").num_rows
    output(*arguments)
    assert ManifestStore(data).read("exposures").num_rows == before + 1
    assert checkpoint.list_complete(out)[-1].manifest["world"] == 2
