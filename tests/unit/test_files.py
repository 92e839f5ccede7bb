"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from manifests.files import publish, temporary_name, write_atomic


def test_what_a_killed_process_of_the_same_number_left_is_not_written_to(tmp_path: Path) -> None:
    """Killed between giving a file its name and taking the temporary one away, it leaves two names of one file: the next write of that name
    does not touch the published bytes until it replaces them."""
    path, temporary = tmp_path / "n.json", temporary_name(tmp_path / "n.json")
    assert publish(path, b"first")
    os.link(path, temporary)
    before = path.stat().st_ino
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"first" and path.stat().st_ino == before and not temporary.exists()
    os.link(path, temporary)
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["n.json"]


def test_a_file_is_published_once(tmp_path: Path) -> None:
    """Whoever comes second leaves the first one's bytes, and nothing of their own."""
    path = tmp_path / "in" / "x"
    assert publish(path, b"a") and not publish(path, b"b")
    assert path.read_bytes() == b"a" and os.listdir(path.parent) == ["x"]
