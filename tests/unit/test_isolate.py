"""The child process in which media are decoded: what it gives back, and that its death costs one call."""

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
from tests.media_makers import still, write_video

MEMORY = 4 << 30


def hang(path: str) -> None:
    """Never returns."""
    while path:
        time.sleep(1)


def crash(path: str) -> None:
    """Ends the process as a fault in a decoder would."""
    os.kill(os.getpid(), 11)


def devour(path: str) -> int:
    """Asks for more memory than it may have."""
    return len(bytearray(1 << 40))


def fault(path: str) -> None:
    """A fault of our own."""
    raise KeyError(path)


def process_id() -> int:
    """The process it runs in."""
    return os.getpid()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child can import this file's functions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for function in (hang, crash, devour, fault, process_id):
        monkeypatch.setattr(function, "__module__", "test_isolate")


def test_results_are_those_of_a_plain_call(tmp_path: Path) -> None:
    """A probe in the child equals a probe here, and errors come back with their code."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 6)))
    with Sandbox(20, MEMORY) as box:
        assert box.call(probe, path, MediaConfig()) == probe(path, MediaConfig())
        with pytest.raises(MediaError) as e:
            box.call(probe, str(tmp_path / "absent"), MediaConfig())
    assert e.value.code == "missing"


@pytest.mark.parametrize(("function", "code"), [(hang, "timeout"), (crash, "crashed"), (devour, "memory")])
def test_a_bad_medium_costs_one_call(here: None, function, code: str) -> None:
    """A hang, a crash and a memory blow-up become an error that names the file, and the next call works."""
    with Sandbox(1.0, MEMORY) as box:
        with pytest.raises(MediaError, match=r"film\.mp4") as e:
            box.call(function, "film.mp4")
        assert e.value.code == code
        assert box.call(process_id) != os.getpid()


def test_our_own_faults_are_not_taken_for_bad_media(here: None) -> None:
    """Another exception comes back as a SandboxError with the child's traceback."""
    with Sandbox(10, MEMORY) as box, pytest.raises(SandboxError, match="KeyError"):
        box.call(fault, "film.mp4")


def test_the_child_is_kept_between_calls_and_replaced_after_death(here: None) -> None:
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
    folders = [str(Path(__file__).parent), str(Path(isolate.__file__).parents[1])]
    script = (
        f"import sys; sys.path[:0] = {folders!r}\nimport test_isolate as t\nfrom curation.isolate import Sandbox\n"
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
