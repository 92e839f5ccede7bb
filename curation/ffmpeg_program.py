"""FFmpeg run as a program on one medium: what it is given, what it may open, how long it may take, what it said when it failed.

The program inherits an open descriptor of the medium and knows no protocol but that one (`fd:`, FFmpeg 6.1 and later), so neither the
medium's name nor anything inside it can make it open another file or address. It seeks in the descriptor as in a file. It knows none of
our keys, gains no rights, ends with what started it, and has the limits of that: a sandbox's child, wherever media are not our own.
"""

import io
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation.isolate import environment, ties
from curation.media import DEMUXERS, MediaError, open_file
from curation.plain_text import clean_text


class EncodeError(RuntimeError):
    """A clip could not be encoded: names clip, file, what was expected and found, and the end of what FFmpeg said."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, clean_text(detail)  # it names files, whose names need not be Unicode
        super().__init__(f"{code}: {self.detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run of the program may use."""

    timeout_s: float
    max_alloc_bytes: int


def ffmpeg_binary() -> str:
    """The FFmpeg program that comes with imageio-ffmpeg (or the one IMAGEIO_FFMPEG_EXE names)."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


@lru_cache(maxsize=4)
def h264_encoder(binary: str) -> str:
    """The H.264 encoder the program has: libx264, else libopenh264. Raises EncodeError when it has neither."""
    names = {line.split()[1] for line in _asked(binary, "-encoders").splitlines() if len(line.split()) > 1}
    for name in ("libx264", "libopenh264"):
        if name in names:
            return name
    raise EncodeError("no_encoder", f"expected an FFmpeg with libx264 or libopenh264, found neither in {binary}")


@lru_cache(maxsize=4)
def need_descriptors(binary: str) -> None:
    """Raises EncodeError when the program cannot read from a descriptor: older ones would need a name, and then could open others."""
    if "fd" not in _asked(binary, "-protocols").split():
        raise EncodeError(
            "no_protocol",
            f"expected an FFmpeg with the protocol fd (6.1 or later), found none in {binary}: unset IMAGEIO_FFMPEG_EXE or name a newer one",
        )


def run_ffmpeg(
    path: str, streams: list[int], target: str, reading: dict[str, Any], writing: dict[str, Any], limits: Limits, subject: str
) -> None:
    """FFmpeg has written the target from these streams of the file, or EncodeError tells what it said about the subject.

    `reading` and `writing` are options of FFmpeg for the file and for the target, in whose folder it runs: filters may name files there.
    """
    import ffmpeg

    binary = ffmpeg_binary()
    need_descriptors(binary)
    command = [binary, "-hide_banner", "-nostdin", "-loglevel", "error", "-filter_threads", "1"]
    command += ["-max_alloc", str(limits.max_alloc_bytes)]
    try:
        file = open_file(path)
    except MediaError as e:
        raise EncodeError(e.code, f"{subject}: expected a medium that opens, found {e.detail}") from e
    with file, tempfile.TemporaryFile() as log:
        fd = file.fileno()
        # The whitelists hold for whatever a demuxer would open on its own, too: a playlist has no demuxer, a reference no protocol.
        source = ffmpeg.input("fd:", fd=fd, protocol_whitelist="fd", format_whitelist=DEMUXERS, **reading)
        outputs = ffmpeg.output(*(source[str(i)] for i in streams), target, **writing)
        args = ffmpeg.compile(outputs, cmd=command, overwrite_output=True)
        try:
            done = subprocess.run(
                args,
                cwd=Path(target).parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                timeout=limits.timeout_s,
                pass_fds=(fd,),
                env=environment(),
                preexec_fn=ties(os.getpid()),
            )
        except subprocess.TimeoutExpired as e:
            raise EncodeError("timeout", f"{subject}: expected an end within {limits.timeout_s:g} s, found none") from e
        if done.returncode != 0 or not Path(target).is_file():
            raise EncodeError("ffmpeg_failed", f"{subject}: expected FFmpeg to succeed, found exit {done.returncode}: {_tail(log)}")


def _asked(binary: str, question: str) -> str:
    command = [binary, "-hide_banner", question]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=environment()).stdout


def _tail(log: Any) -> str:
    log.seek(max(0, log.seek(0, io.SEEK_END) - 600))
    return " ".join(log.read().decode("utf-8", "replace").split())
