"""The child process in which media are decoded: what it gives back, and that its death costs one call."""

import errno
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import isolate, wire
from curation.isolate import Sandbox, SandboxError
from curation.media import MediaConfig, MediaError
from curation.motion import MotionConfig
from curation.probe import MediaFacts, probe
from tests.child_functions import (
    abort,
    babble,
    boast,
    burn,
    compute,
    crash,
    devour,
    devour_slowly,
    environment,
    fault,
    forge,
    hang,
    invent,
    leave,
    lie,
    limits,
    process_id,
    write_file,
)
from tests.media_makers import still, write_video

MEMORY = 4 << 30


def test_results_are_those_of_a_plain_call(tmp_path: Path) -> None:
    """A probe in the child equals a probe here, and errors come back with their code."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 6)))
    with Sandbox(20, MEMORY) as box:
        assert box.call(probe, path, MediaConfig()) == probe(path, MediaConfig())
        with pytest.raises(MediaError) as e:
            box.call(probe, str(tmp_path / "absent"), MediaConfig())
    assert e.value.code == "missing"


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (hang, "timeout"),
        (burn, "timeout"),
        (crash, "crashed"),
        (abort, "crashed"),
        (leave, "crashed"),
        (devour, "memory"),
        (devour_slowly, "memory"),
        (babble, "crashed"),
        (boast, "crashed"),
        (lie, "crashed"),
        (invent, "crashed"),
        (forge, "crashed"),
    ],
)
def test_a_bad_medium_costs_one_call(function, code: str) -> None:
    """A hang, a crash, a memory blow-up and an answer that cannot be become an error that names the file, and the next call works."""
    with Sandbox(1.0 if code == "timeout" else 60.0, 1 << 30) as box:
        with pytest.raises(MediaError, match=r"film\.mp4") as e:
            box.call(function, "film.mp4")
        assert e.value.code == code
        assert box.call(process_id) != os.getpid()


def test_the_child_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our environment it has what libraries need; keys and tokens stay here."""
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HOME"):
        monkeypatch.setenv(name, "secret")
    with Sandbox(10, MEMORY) as box:
        names = set(box.call(environment))
    assert names <= {*isolate.ENVIRONMENT, *isolate.THREADS, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
    assert "PATH" in names


def test_the_child_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that was taken over leaves no file behind; only the log of openings, where one is asked for, is written."""
    with Sandbox(10, MEMORY) as box:
        assert box.call(write_file, str(tmp_path / "a")) == f"OSError{errno.EFBIG}"
    assert not (tmp_path / "a").exists() or not (tmp_path / "a").stat().st_size
    path = str(write_video(tmp_path / "a.mp4", still(1, 6)))
    monkeypatch.setenv("DAILIES_MEDIA_LOG", str(tmp_path / "log"))
    with Sandbox(10, MEMORY) as box:
        box.call(probe, path, MediaConfig())
    assert (tmp_path / "log").read_text() == f"probe\t{path}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_is_limited() -> None:
    """No core file, no file written, the address space of the limit, and no way to more rights."""
    with Sandbox(10, MEMORY) as box:
        assert box.call(limits) == [0, 0, MEMORY, 1]


def test_computing_time_is_limited_per_call() -> None:
    """The kernel's limit counts from each call on: calls are not added up, and one that goes on for ever is ended as a timeout."""
    with Sandbox(0.5, MEMORY) as box:
        box._ready()  # the child is started with half a second; the parent would wait for a minute
        box.timeout_s = 60
        assert sum(box.call(compute, 0.5) for _ in range(5)) > 2.4
        with pytest.raises(MediaError) as e:
            box.call(burn, "film.mp4")
    assert e.value.code == "timeout" and "CPU" in e.value.detail


def test_a_child_that_cannot_start_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """No asset is blamed when the process ends before it has seen one, or does not know the function."""
    with Sandbox(10, 1 << 20) as box, pytest.raises(SandboxError):
        box.call(probe, "film.mp4", MediaConfig())
    monkeypatch.setattr(hang, "__module__", "no_such_module")
    with Sandbox(10, MEMORY) as box, pytest.raises(SandboxError, match="no_such_module"):
        box.call(hang, "film.mp4")


def test_our_own_faults_are_not_taken_for_bad_media() -> None:
    """Another exception comes back as a SandboxError with the child's traceback."""
    with Sandbox(10, MEMORY) as box, pytest.raises(SandboxError, match="KeyError"):
        box.call(fault, "film.mp4")


def test_the_child_is_kept_between_calls_and_replaced_after_death() -> None:
    """Two calls share a process; one killed while idle is replaced without an error."""
    with Sandbox(10, MEMORY) as box:
        first = box.call(process_id)
        assert box.call(process_id) == first
        os.kill(first, 9)
        time.sleep(0.1)
        assert box.call(process_id) != first


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_the_child_dies_with_its_parent() -> None:
    """When the parent is killed during a call, the child is gone too."""
    folders = [str(Path(__file__).parents[2])]
    script = (
        f"import sys; sys.path[:0] = {folders!r}\nimport tests.child_functions as t\nfrom curation.isolate import Sandbox\n"
        "box = Sandbox(60, 4 << 30)\nprint(box.call(t.process_id), flush=True)\nbox.call(t.hang, 'x')"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlived its parent")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.fractions(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values_cross_unchanged(value: object) -> None:
    """decode(encode(x)) is x, types included."""
    assert wire.decode(wire.encode(value)) == value


def test_arrays_and_records_cross_unchanged() -> None:
    """Numeric arrays keep type and shape, dataclasses of ours their class; nothing else may cross."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    facts = MediaFacts(kind="video", container="x", fps_num=Fraction(24).numerator)
    back = wire.decode(wire.encode([array, facts, MotionConfig()]))
    assert back[0].dtype == np.float32 and (back[0] == array).all()
    assert back[1:] == [facts, MotionConfig()]
    with pytest.raises(wire.WireError):
        wire.encode(object())


@pytest.mark.parametrize(
    "header",
    [
        "hello",
        '{"tree":{"record":["subprocess","Popen"],"fields":{"args":["true"]}},"sizes":[]}',
        '{"tree":{"record":["curation.probe","probe"],"fields":{"path":"x"}},"sizes":[]}',
        '{"tree":{"array":0,"dtype":"O","shape":[1]},"sizes":[8]}',
    ],
)
def test_a_lying_child_runs_nothing(header: str) -> None:
    """Bytes that are no message, name a class of another package, a function of ours, or an array of objects, are refused."""
    with pytest.raises(wire.WireError):
        wire.decode(len(header).to_bytes(4, "big") + header.encode() + bytes(8))


def test_nothing_of_the_current_directory_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of media that also holds modules named as Python's or as ours is a folder of media: the child imports none of them."""
    poison = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n"
    media = tmp_path / "media"
    (media / "curation").mkdir(parents=True)
    for name in ("fractions.py", "socket.py", "numpy.py", "sitecustomize.py", "curation/__init__.py", "curation/isolate.py"):
        (media / name).write_text(poison)
    path = str(write_video(media / "a.mp4", still(1, 6)))
    monkeypatch.chdir(media)
    with Sandbox(20, MEMORY) as box:
        assert box.call(probe, path, MediaConfig()).kind == "video"
    assert not (tmp_path / "ran").exists()
