"""The classes of Spark's JVM, kept in an archive that later JVMs map, instead of loading and verifying some ten thousand one by one.

This is HotSpot's class data sharing (JEP 350). Starting Spark is most of what curating a few clips takes; with the archive it is a third less.
The first run of an installation leaves it, some 190 MB beside the installed packages. A JVM that it does not fit (another Java, other jars,
damage) passes it over.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from manifests import ids

_SILENT = "-Xlog:disable -Xlog:all=error:stderr"
"""What a JVM says of an archive goes to its standard output, which is ours."""


def archive_of(java: Path) -> Path | None:
    """Where the archive for this Java and this installation of Spark lies, or would lie; None for a Java that is not HotSpot."""
    import pyspark

    release, jars = java.resolve().parents[1] / "release", Path(pyspark.__file__).parent / "jars"
    if release.is_file() and "openj9" in release.read_text(errors="replace").lower():
        return None
    said = release if release.is_file() else java.resolve()
    changed = (f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in (said, jars))
    return Path(sys.prefix) / "share" / "dailies" / f"spark-{ids.digest('classes/v1', pyspark.__version__, *changed)[:16]}.jsa"


def use(archive: Path) -> str:
    """Options of a JVM that maps the archive."""
    return f'"-XX:SharedArchiveFile={archive}" {_SILENT}'


def leave(draft: Path) -> str:
    """Options of a JVM that writes an archive when it ends."""
    return f'"-XX:ArchiveClassesAtExit={draft}" {_SILENT}'


def keep(draft: Path, archive: Path | None) -> bool:
    """What a JVM left is the archive, whole or not at all, and the only one; false where there is none or no place for it."""
    if archive is None or not draft.is_file():
        return False
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=archive.parent)
        os.close(handle)
        try:
            shutil.copyfile(draft, name)
            Path(name).chmod(0o644)
            Path(name).replace(archive)
        finally:
            Path(name).unlink(missing_ok=True)
        for other in archive.parent.glob("spark-*.jsa"):
            if other != archive:
                other.unlink(missing_ok=True)
    except OSError:  # an installation that is not ours to write to, or a full disk
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
