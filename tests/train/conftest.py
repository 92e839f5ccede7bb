"""A small dataset of the real kind: encoded clips in tar shards, with a committed manifest; and the run that trains on it."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from manifests.ids import clip_id, digest
from manifests.records import Caption, Clip, Member, Shard
from manifests.schema import to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestStore
from training import checkpoint, launch
from training.config import TrainConfig, to_json_value
from training.models.autoencoder import TAEConfig

TAE = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)
FPS = 24
WORDS = ("soft", "quick", "pale", "deep")


def encode_mp4(frames: np.ndarray) -> bytes:
    """The frames (T, H, W, 3) as an H.264 mp4 at 24 frames a second."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "18", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return sink.getvalue()


def encode_jpg(pixels: np.ndarray) -> bytes:
    """The picture (H, W, 3) as a JPEG."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def moving_pattern(seed: int, n_frames: int, height: int, width: int) -> np.ndarray:
    """Frames (T, H, W, 3) of soft coloured waves that drift: smooth enough to be learnt in seconds."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    y, x = np.mgrid[0:height, 0:width] / min(height, width)
    t = np.arange(n_frames)[:, None, None] / FPS
    channels = []
    for _ in range(3):
        waves = sum(np.sin(2 * np.pi * (fx * x + fy * y + speed * t + phase)) for fx, fy, speed, phase in rng.uniform(-1.5, 1.5, (4, 4)))
        channels.append(127.5 + 30 * waves)
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def build_dataset(root: Path, videos: list[np.ndarray], images: list[np.ndarray]) -> Path:
    """A dataset with one video and one image shard, every clip kept, captioned and of an asset of its own, committed as manifest version 0."""
    clips, shards, members, captions = [], [], [], []
    kinds: list[tuple[str, str, Callable[[np.ndarray], bytes], list[np.ndarray]]] = [
        ("video", "mp4", encode_mp4, videos),
        ("image", "jpg", encode_jpg, images),
    ]
    for kind, extension, encode, pictures in kinds:
        if not pictures:
            continue
        shard_no, first = len(shards), len(clips)
        names = [clip_id(digest("asset", kind, i), kind, 0, 1) for i in range(len(pictures))]
        path = f"shards/low_res/{kind}/low_res-{kind}-000000.tar"
        order = np.argsort(names)
        written = write_shard(root / path, [Payload(clip_id=names[i], extension=extension, data=encode(pictures[i])) for i in order])
        n_frames = len(pictures[0]) if kind == "video" else 1
        height, width = pictures[0].shape[-3:-1]
        common: dict[str, Any] = {
            "n_frames": n_frames,
            "fps_num": FPS if kind == "video" else None,
            "fps_den": 1 if kind == "video" else None,
        }
        shards.append(
            Shard(
                shard_no=shard_no, path=path, set_name="low_res", bucket=f"{kind}_{n_frames}f", width=width, height=height,
                size_bytes=written.size_bytes, sha256=written.sha256, n_samples=len(pictures),
                encode_digest="test", created_run_no=0, **common,
            )
        )  # fmt: skip
        for n, placed in enumerate(written.members):
            no = first + n
            asset = {"asset_id": digest("a", no), "asset_no": no, "start_us": 0, "end_us": 1}
            clips.append(Clip(clip_id=placed.clip_id, clip_no=no, kind=kind, decision="keep", caption_no=no, **asset))
            said = {"captioner": "sidecar", "captioner_version": "1", "camera_prefix": "pan left" if kind == "video" else None}
            captions.append(Caption(caption_no=no, clip_no=no, text=f"{WORDS[no % 4]} waves number {no}", **said))
            members.append(Member(shard_no=shard_no, clip_no=no, **dataclasses.asdict(placed), **common))
    tables = {
        "clips": to_table(Clip, clips),
        "captions": to_table(Caption, captions),
        "shards": to_table(Shard, shards),
        "members": to_table(Member, members),
    }
    ManifestStore(root).commit("build", append=tables)
    return root


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A thread a process, here and in the workers: two threads that wait for each other on a busy machine take minutes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def warm(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs that a test starts by `train` are forked from a process that has imported everything."""
    script, address = str(Path(__file__).parent / "warm_workers.py"), str(tmp_path_factory.mktemp("warm") / "socket")
    root = str(Path(checkpoint.__file__).parent.parent)
    server = subprocess.Popen([sys.executable, script, "serve", address], env={**os.environ, "PYTHONPATH": root})
    Processes.wait_for(lambda: Path(address).exists() or server.poll() is not None, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "command", lambda n, out: [sys.executable, "-S", script, "ask", address, str(n), str(out.resolve())])
        yield
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """10 videos of 12 frames and 4 images, 48 x 32 pixels."""
    videos = [moving_pattern(i, 12, 32, 48) for i in range(10)]
    images = [moving_pattern(100 + i, 1, 32, 48)[0] for i in range(4)]
    yield build_dataset(tmp_path_factory.mktemp("dataset"), videos, images)


@pytest.fixture(scope="session")
def many_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos of 32 frames of 64 x 64 pixels: 256 blocks of 8 x 8 x 8 each."""
    return build_dataset(tmp_path_factory.mktemp("many_blocks"), [moving_pattern(i, 32, 64, 64) for i in range(12)], [])


@pytest.fixture(scope="session")
def tae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an autoencoder of four latent channels with its initial weights."""
    from training.losses import TAELossConfig
    from training.tasks.autoencoder import AutoencoderTask

    folder = tmp_path_factory.mktemp("tae")
    data = save(AutoencoderTask("tae", TAE, TAELossConfig(), 0).module().state_dict())
    (folder / "weights.safetensors").write_bytes(data)
    described = {"stage": "tae", "model": dataclasses.asdict(TAE), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


class Processes:
    """Training runs in processes of their own, to be found and killed."""

    @staticmethod
    def start(config: TrainConfig, dataset: Path, out: Path) -> subprocess.Popen[bytes]:
        """The run in a process of its own, to be killed."""
        code = (
            "import json, sys; from pathlib import Path; from training.config import from_json_value; from training.launch import train; "
            "train(from_json_value(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))"
        )
        root = str(Path(checkpoint.__file__).parent.parent)
        command = [sys.executable, "-c", code, json.dumps(to_json_value(config)), str(dataset), str(out)]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root})

    @staticmethod
    def workers(out: Path) -> list[int]:
        """Process ids of the workers that train in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if b"training.worker" in arguments and str(out.resolve()).encode() in arguments:
                found.append(int(entry.name))
        return found

    @staticmethod
    def wait_for(condition: Callable[[], bool], seconds: float) -> None:
        """The condition has become true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def processes() -> type[Processes]:
    """The means to start, find and await training processes."""
    return Processes
