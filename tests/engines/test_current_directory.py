"""What lies in the folder that a command is started in is media, never a program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import ray
from pipelines import on_ray

def found(batch):
    import sys
    sys.modules.pop("colorsys", None)
    import colorsys, curation
    return {"files": [colorsys.__file__, curation.__file__]}

on_ray.start(on_ray.EngineConfig(cpus=1))
print(*(row["files"] for row in ray.data.from_items([1]).map_batches(found, batch_size=1).take_all()), sep="\\n")
on_ray.stop()
"""


@pytest.mark.engine
def test_a_worker_of_ray_runs_nothing_of_the_current_directory(tmp_path: Path) -> None:
    """Modules that lie beside the media, named as Python's or as ours, are imported by no worker; ours come from where they lie."""
    for name in ("colorsys.py", "curation.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    standard, ours = done.stdout.split()[-2:]
    assert Path(ours).is_relative_to(ROOT) and not Path(standard).is_relative_to(tmp_path)
    assert not (tmp_path / "ran").exists()
