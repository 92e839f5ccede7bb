"""What a run needs is looked at before it starts, and what is missing is named with its remedy."""

from pathlib import Path

import pytest

from pipelines.doctor import Finding, examine


def _found(name: str, out: Path) -> Finding:
    return next(f for f in examine(out) if f.name == name)


def _ffmpeg(folder: Path, protocols: str) -> Path:
    """A program that says what an FFmpeg with these protocols, and every encoder, says."""
    folder.mkdir(exist_ok=True)
    program = folder / "ffmpeg"
    program.write_text(
        f"#!/bin/sh\ncase $2 in -protocols) echo '{protocols}';; -encoders) echo ' libx264 aac flac ';; *) echo 'ffmpeg version 4.4';; esac\n"
    )
    program.chmod(0o755)
    return program


def test_an_encoder_that_cannot_read_descriptors_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that comes with imageio-ffmpeg reads descriptors; one before 6.1 does not, though it encodes, and the remedy names the
    variable that chose it; one that does not run is no traceback."""
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    own = _found("encode from fd", tmp_path)
    assert own.ok and "ffmpeg" in own.found
    old = _ffmpeg(tmp_path, "Input:\n  file\n  pipe")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(old))
    bad = _found("encode from fd", tmp_path)
    assert (bad.ok, _found("encode h264", tmp_path).ok) == (False, True)
    assert "protocol fd (6.1 or later)" in bad.found and str(old) in bad.found and "unset IMAGEIO_FFMPEG_EXE" in bad.remedy
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(_ffmpeg(tmp_path / "new", "Input:\n  fd\n  file")))
    assert _found("encode from fd", tmp_path).ok
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    assert not _found("encode from fd", tmp_path).ok
