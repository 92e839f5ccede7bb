"""What a run needs, looked at before it starts, with the remedy for what is missing."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FREE_BYTES = 2 << 30
"""Least free disk that lets a small run end; ours."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine(out: Path) -> list[Finding]:
    """Every finding, good or bad, in the order in which a run would meet them."""
    return [*_packages(), _credentials(), _java(), *_codecs(), _encoder(), _descriptors(), _disk(out), _writable(out)]


def _packages() -> Iterator[Finding]:
    wanted = {"curate": ("av", "ray", "pyspark", "scenedetect", "rapidocr", "pdqhash", "ffmpeg"), "train": ("torch", "deepspeed")}
    for extra, names in wanted.items():
        missing = [n for n in names if importlib.util.find_spec(n) is None]
        yield Finding(
            f"[{extra}]",
            not missing,
            ", ".join(names) if not missing else f"missing: {', '.join(missing)}",
            f"pip install 'dailies[{extra}]'",
        )


def _credentials() -> Finding:
    from curation.credentials import library_version

    version = library_version()
    return Finding(
        "credentials",
        version is not None,
        f"c2pa-python {version}" if version else "no c2pa-python: Content Credentials are not read, opt-outs in them are not seen",
        "pip install 'c2pa-python>=0.38'",
    )


def _java() -> Finding:
    from pipelines.on_spark import JavaError, find_java

    try:
        return Finding("java", True, str(find_java()))
    except JavaError as error:
        return Finding("java", False, "no Java 17 or newer", str(error))


def _codecs() -> Iterator[Finding]:
    if importlib.util.find_spec("av") is None:
        return
    import av

    for codec in ("h264", "hevc", "vp9", "av1", "mpeg4", "aac", "opus", "mp3"):
        found = codec in av.codecs_available
        if codec in ("h264", "aac") or not found:
            yield Finding(
                f"decode {codec}",
                found,
                "PyAV" if found else "PyAV has no such decoder",
                "install the av wheel that bundles FFmpeg: pip install --only-binary=:all: av",
            )


def _encoder() -> Finding:
    remedy = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg with libx264"
    try:
        import imageio_ffmpeg

        binary = imageio_ffmpeg.get_ffmpeg_exe()
        listed = subprocess.run([binary, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Finding("encode h264", False, f"{type(error).__name__}: {error}", remedy)
    found = [e for e in ("libx264", "aac", "flac") if f" {e} " in listed]
    return Finding("encode h264", len(found) == 3, f"{binary} with {', '.join(found)}", remedy)


def _descriptors() -> Finding:
    """The encoder gets an open file and no name, so that nothing inside a medium can make it open another."""
    from curation.ffmpeg_program import EncodeError, ffmpeg_binary, need_descriptors

    remedy = "unset IMAGEIO_FFMPEG_EXE to use the program of imageio-ffmpeg, or set it to an ffmpeg of 6.1 or later"
    try:
        binary = ffmpeg_binary()
        need_descriptors(binary)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        found = error.detail if isinstance(error, EncodeError) else f"{type(error).__name__}: {error}"
        return Finding("encode from fd", False, found, remedy)
    return Finding("encode from fd", True, f"{binary} reads inherited descriptors")


def _disk(out: Path) -> Finding:
    free = shutil.disk_usage(_existing(out)).free
    return Finding("disk", free >= _FREE_BYTES, f"{free / 2**30:.1f} GiB free", f"free at least {_FREE_BYTES >> 30} GiB where {out} lies")


def _writable(out: Path) -> Finding:
    folder = _existing(out)
    return Finding(
        "write access",
        os.access(folder, os.W_OK | os.X_OK),
        str(folder),
        f"choose another --out, or give yourself write access to {folder}",
    )


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
