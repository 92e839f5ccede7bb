"""A medium never makes us open anything but itself: no other file, no address. Watched by the kernel (inotify), a server, and strace."""

import ctypes
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from PIL import Image

from curation import decode
from curation.encode import EncodeConfig, encode_clip
from curation.ffmpeg_program import EncodeError, Limits, ffmpeg_binary, run_ffmpeg
from curation.media import MediaConfig, MediaError
from curation.probe import probe
from curation.stills import load_picture
from manifests.records import Asset, Clip
from tests.hostile_makers import MAKERS, OUTCOMES
from tests.media_makers import scene, still, write_video

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify and strace are Linux only; the server is asked everywhere")
_OPENED = 0x20  # IN_OPEN


class Server:
    """Listens on a port of this machine and counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.n_visits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            self.n_visits += 1
            visitor.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that must not be asked."""
    server = Server()
    yield server
    server.close()


@contextmanager
def opened(*folders: Path) -> Iterator[list[str]]:
    """Paths of all files that are opened in the folders within the block, by anybody and through any interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    watched = {libc.inotify_add_watch(fd, str(f).encode(), _OPENED): f for f in folders}
    found: list[str] = []
    try:
        yield found
        data = b""
        try:
            while block := os.read(fd, 1 << 16):
                data += block
        except BlockingIOError:
            pass
        at = 0
        while at < len(data):
            watch, _, _, length = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode()
            if name:
                found.append(str(watched[watch] / name))
            at += 16 + length
    finally:
        os.close(fd)


def use(path: Path) -> str:
    """The real probe and decode of the file: its kind, or the code of its error."""
    cfg = MediaConfig()
    try:
        kind = probe(str(path), cfg).kind
        if kind == "image":
            load_picture(str(path), cfg)
        elif kind == "video":
            assert list(decode.decode(str(path), cfg, sound=lambda piece: None))
        return kind
    except MediaError as e:
        return e.code


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of the asset, with bystanders that a sequence would take, and a real video in a folder elsewhere."""
    asset, elsewhere = tmp_path / "asset", tmp_path / "elsewhere"
    asset.mkdir()
    elsewhere.mkdir()
    for name in ("frame000.png", "frame001.png", "frame1.jpg", "a.png"):
        Image.fromarray(scene(1)).save(asset / name)
    (asset / "titles.sub").write_bytes(b"\0\0\1\xba" + bytes(2048))
    shutil.copy(write_video(tmp_path / "v.mp4", still(1, 6)), elsewhere / "secret.mp4")
    return asset, elsewhere / "secret.mp4"


def place(places: tuple[Path, Path], server: Server, name: str) -> tuple[Path, Path]:
    """The same two places, a hostile file of that name in the first. It is made elsewhere: its making opens other files."""
    asset, target = places
    work = asset.parent / "work"
    work.mkdir()
    MAKERS[name](work / name, target, server.url)
    shutil.copy(work / name, asset / name)
    return asset, target


@LINUX
@pytest.mark.parametrize("name", MAKERS)
def test_only_the_asset_is_opened(places: tuple[Path, Path], server: Server, name: str) -> None:
    """Whatever a file points to, probe and decode open that file alone and ask no server; and it never passes for what it points to."""
    asset, target = place(places, server, name)
    with opened(asset, target.parent) as seen:
        outcome = use(asset / name)
    assert set(seen) == {str(asset / name)}
    assert outcome == OUTCOMES.get(name, "not_media")
    assert server.n_visits == 0


@LINUX
@pytest.mark.parametrize(
    "name", ["absolute.m3u8", "absolute.ffconcat", "reference.mov", "reference-beside.mov", "frame%03d.png", "titles.idx"]
)
def test_the_watch_sees_what_plain_ffmpeg_opens(places: tuple[Path, Path], server: Server, name: str) -> None:
    """The same files, opened by FFmpeg without our limits, do open others, and the watch reports them: it is not blind."""
    asset, target = place(places, server, name)
    with opened(asset, target.parent) as seen:
        options = {"safe": "0"} if name.endswith("ffconcat") else {"enable_drefs": "1", "use_absolute_path": "1"} if "mov" in name else {}
        try:
            with av.open(str(asset / name), options=options, format="image2" if "%" in name else None) as container:
                list(container.demux())
        except av.error.FFmpegError:
            pass
    assert set(seen) - {str(asset / name)}


def test_a_playlist_of_addresses_asks_nobody(tmp_path: Path, server: Server) -> None:
    """No connection is made for a playlist that names a server; plain FFmpeg makes one."""
    path = tmp_path / "list.m3u8"
    MAKERS["network.m3u8"](path, tmp_path / "x.mp4", server.url)
    assert use(path) == "not_media" and server.n_visits == 0
    with pytest.raises(av.error.FFmpegError):
        av.open(str(path), options={"protocol_whitelist": "file,http,tcp", "allowed_extensions": "ALL"}, timeout=5)
    assert server.n_visits > 0


@pytest.mark.parametrize(
    "name", ["pipe:0.mp4", "fd:", "data:video,x.mp4", "concat:a.mp4|b.mp4", "subfile,,start,1,end,9,,:a.mp4", "cache:a", "a%03d.png"]
)
def test_a_name_is_never_read_as_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A video under a name that FFmpeg would take for a protocol, a pattern or an option is that video."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", still(1, 3)).rename(tmp_path / name)
    assert use(Path(name)) == "video"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A named pipe without a writer does not hang us; a folder, a socket and a device are no media."""
    os.mkfifo(tmp_path / "pipe.mp4")
    place = socket.socket(socket.AF_UNIX)
    place.bind(str(tmp_path / "s"))
    assert use(tmp_path / "pipe.mp4") == "not_media"
    assert use(tmp_path) == "not_media"
    assert use(Path("/dev/zero")) == "not_media"
    assert use(tmp_path / "s") == "missing"
    place.close()


def encode(path: Path, kind: str = "video") -> str:
    """The real encoding of the file's first frames: `mp4` or `jpg`, or the code of its error."""
    asset = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri=str(path), kind=kind, width=320, height=192)
    clip = Clip(clip_id="c", asset_id=asset.asset_id, kind=kind, start_us=0, end_us=200_000)
    try:
        return encode_clip(str(path), clip, asset, 64, 48, 2, 16, 1, EncodeConfig(preset="ultrafast")).extension
    except EncodeError as e:
        return e.code


def transcode(path: Path) -> str:
    """FFmpeg's program alone, told to follow references, on a file nobody looked at before: `written`, or the code of its error."""
    target = path.parent.parent / "out.mp4"
    reading = {"enable_drefs": 1, "use_absolute_path": 1} if path.suffix == ".mov" else {}
    try:
        run_ffmpeg(str(path), [0], str(target), reading, {"frames:v": 2}, Limits(timeout_s=20, max_alloc_bytes=1 << 28), "clip c")
    except EncodeError as e:
        return e.code
    target.unlink()
    return "written"


@LINUX
@pytest.mark.parametrize("name", MAKERS)
def test_encoding_opens_the_asset_alone(places: tuple[Path, Path], server: Server, name: str) -> None:
    """Whatever a file points to, encoding it, and FFmpeg's program on it alone, open that file only and ask no server."""
    asset, target = place(places, server, name)
    with opened(asset, target.parent) as seen:
        outcomes = encode(asset / name), encode(asset / name, "image"), transcode(asset / name)
    assert set(seen) == {str(asset / name)} and server.n_visits == 0
    own = OUTCOMES.get(name) == "video"  # it has frames of its own, and is encoded from them
    assert outcomes[0::2] == ("mp4", "written") if own else not {"mp4", "jpg", "written"} & set(outcomes)


@LINUX
@pytest.mark.parametrize(
    "name", ["frame%03d.mp4", "frame%d.jpg", "*.png", "concat:a.mp4|b.mp4", "data:video,x.mp4", "fd:", "list.m3u8", "-i"]
)
def test_a_name_says_nothing_to_the_encoder(places: tuple[Path, Path], name: str) -> None:
    """A video under the name of a pattern, an address, a playlist or an option is encoded as that video, and its neighbours stay shut."""
    asset, target = places
    path = asset / name
    shutil.copy(target, path)
    with opened(asset, target.parent) as seen:
        assert encode(path) == "mp4"
    assert set(seen) == {str(path)}


@LINUX
def test_the_watch_sees_what_the_program_opens(places: tuple[Path, Path]) -> None:
    """The program, given names and none of our limits, opens others, and the watch reports them although it is another process."""
    asset, target = places
    script = asset / "list.ffconcat"
    script.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    with opened(asset, target.parent) as seen:
        for source in (["-safe", "0", "-i", str(script)], ["-f", "image2", "-i", str(asset / "frame%03d.png")]):
            command = [ffmpeg_binary(), "-v", "error", "-nostdin", *source, "-frames:v", "1", "-f", "null", "-"]
            subprocess.run(command, check=True, timeout=60)
    assert {str(target), str(asset / "frame000.png"), str(script)} <= set(seen)


CHILD = """
import sys
from pathlib import Path
from tests.unit.test_nothing_else_is_opened import use
for line in Path(sys.argv[1]).read_text().splitlines():
    use(Path(line))
print(open(sys.argv[2]).read())
for line in Path(sys.argv[1]).read_text().splitlines():
    use(Path(line))
"""


@LINUX
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; inotify watches the same above")
def test_under_strace(places: tuple[Path, Path], server: Server, tmp_path: Path) -> None:
    """In a traced process that has loaded its libraries, the only files opened are the assets, and no connection is made."""
    asset, target = places
    paths = [asset / name for name in MAKERS]
    for path in paths:
        MAKERS[path.name](path, target, server.url)
    (tmp_path / "list").write_text("\n".join(map(str, paths)))
    (tmp_path / "mark").write_text("now")
    trace, root = tmp_path / "trace", str(Path(__file__).resolve().parents[2])
    calls = "trace=open,openat,openat2,connect,execve,socket"
    command = [
        "strace",
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        calls,
        "-o",
        str(trace),
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path / "list"),
        str(tmp_path / "mark"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, cwd=root, timeout=120)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr
    after = trace.read_text().split(str(tmp_path / "mark"))[-1].splitlines()[1:]
    files = {m[1] for line in after if (m := re.search(r'open\w*\(.*?"([^"]*)"', line))}
    assert str(asset / "reference.mov") in files
    others = files - {str(p) for p in paths} - {str(tmp_path / "list")}
    assert not {f for f in others if not f.startswith(("/proc/self/", "/sys/devices/system/cpu", sys.prefix, sys.base_prefix))}
    assert not [line for line in after if re.search(r"\b(connect|execve|socket)\(", line)]
