"""The temporal autoencoder against the best linear code of the same size, on held-out clips; and with and without an adversary.

    python benchmarks/tae.py [--work FOLDER] [--steps N] [--gan-steps N] [--json out.json]

Data: the real videos of the test media, one file of each group of copies, and the samples (which share their pictures, so they are one
asset and stay on one side), cut into windows of 32 frames, 144 pixels high, in shards. Hold-out by asset. `dailies train tae`'s launcher
trains `conf/train/tae/tiny64.yaml` on two processes. The linear code is that of the principal components of 8 x 8 x 8 blocks (1536 values)
in as many numbers as the latent has channels (16), fitted on the same training clips. Both see the same 64-pixel centre crops of the
same first frames of all held-out videos; PSNR in dB, the mean over frames, then over clips. The adversary is compared in two shorter
runs that differ in its weight alone: PSNR, and how much of the originals' fine detail is left (mean absolute difference of neighbouring
pixels, as a share).
"""

import argparse
import csv
import dataclasses
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from manifests.ids import clip_id, digest
from manifests.records import Clip, Member, Shard
from manifests.schema import to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestStore
from training.config import TrainConfig
from training.data.batch import to_tensor
from training.data.index import Sample, load_samples
from training.data.plan import Plan
from training.data.sample import load_pixels
from training.losses import psnr_db
from training.principal import Principal, fit_principal

HEIGHT_PX, FRAMES, WINDOWS_PER_FILE = 144, 32, 12
SAMPLES_ASSET = 0
"""All samples show the same few pictures: on both sides of the hold-out they would be known."""
CROPS = 3
"""Windows and crops of each training clip that the linear code is fitted on."""


def build_dataset(work: Path) -> Path:
    """The folder of shards and manifest; a finished one is left as it is."""
    root, samples = work / "dataset", work / "samples"
    if ManifestStore(root).version() >= 0:
        return root
    from curation.samples import generate

    generate(samples)
    videos, images = [], []
    for asset, path in enumerate(real_files(media_folder()), SAMPLES_ASSET + 1):
        videos += [(asset, name, data) for name, data in windows(path)]
    for path in sorted(p for p in samples.iterdir() if p.suffix in (".mp4", ".webm")):
        videos += [(SAMPLES_ASSET, name, data) for name, data in windows(path)]
    for number, path in enumerate(sorted((media_folder() / "image").iterdir())):
        images += [(100_000 + number, name, data) for name, data in picture(path)]
    write(root, {"video": videos, "image": images})
    return root


def real_files(media: Path) -> list[Path]:
    """The largest file of each group of copies, in the order of the index."""
    best: dict[str, dict[str, str]] = {}
    with (media / "index.csv").open() as file:
        for row in csv.DictReader(file):
            if row["path"].startswith("video/"):
                group = row["group"] or row["path"]
                if group not in best or int(row["bytes"]) > int(best[group]["bytes"]):
                    best[group] = row
    return [media / row["path"] for row in best.values()]


def windows(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, mp4) of up to 12 windows of 32 frames spread over the file; none of one that cannot be decoded."""
    import av

    found, frames = [], list[np.ndarray]()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                scale = HEIGHT_PX / min(frame.width, frame.height)
                width, height = (max(HEIGHT_PX, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
                frames.append(frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray())
                if len(frames) == FRAMES:
                    found.append(np.stack(frames))
                    frames = []
                if len(found) == 4 * WINDOWS_PER_FILE:
                    break
    except (av.FFmpegError, IndexError):
        pass
    for number in sorted({round(i) for i in np.linspace(0, len(found) - 1, WINDOWS_PER_FILE)} if found else ()):
        yield f"{path.name} {number}", encode_mp4(found[number])


def encode_mp4(pixels: np.ndarray) -> bytes:
    """The frames (T, H, W, 3) as H.264 at 24 frames a second, nearly without loss."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10", "threads": "1", "preset": "fast"})
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return sink.getvalue()


def picture(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, JPEG) of a picture that Pillow reads and that is large enough."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError):
        return
    if min(image.size) >= 100:
        scale = HEIGHT_PX / min(image.size)
        sink = io.BytesIO()
        image.resize((max(HEIGHT_PX, round(image.width * scale)), max(HEIGHT_PX, round(image.height * scale)))).save(
            sink, "JPEG", quality=95
        )
        yield path.name, sink.getvalue()


def write(root: Path, media: dict[str, list[tuple[int, str, bytes]]]) -> None:
    """The dataset holds one shard of each kind with these (asset, name, payload), committed."""
    clips, shards, members = [], [], []
    for kind, items in media.items():
        asset_of = {clip_id(digest("benchmark", name), kind, 0, 1): (asset, data) for asset, name, data in items}
        path, n_frames = f"shards/low_res/{kind}/low_res-{kind}-000000.tar", FRAMES if kind == "video" else 1
        payloads = [
            Payload(clip_id=c, extension={"video": "mp4", "image": "jpg"}[kind], data=data) for c, (_, data) in sorted(asset_of.items())
        ]
        written = write_shard(root / path, payloads)
        rate: dict[str, Any] = {"fps_num": 24, "fps_den": 1} if kind == "video" else {"fps_num": None, "fps_den": None}
        shards.append(
            Shard(
                shard_no=len(shards), path=path, set_name="low_res", bucket=f"{kind}_{n_frames}f", width=None, height=None, n_frames=n_frames,
                size_bytes=written.size_bytes, sha256=written.sha256, n_samples=len(payloads), encode_digest="benchmark", created_run_no=0,
                **rate,
            )
        )  # fmt: skip
        for placed in written.members:
            asset, number = asset_of[placed.clip_id][0], len(clips)
            where = {"asset_id": digest("asset", asset), "asset_no": asset, "start_us": 0, "end_us": 1}
            clips.append(Clip(clip_id=placed.clip_id, clip_no=number, kind=kind, decision="keep", **where))
            members.append(Member(shard_no=len(shards) - 1, clip_no=number, n_frames=n_frames, **rate, **dataclasses.asdict(placed)))
    tables = {"clips": to_table(Clip, clips), "shards": to_table(Shard, shards), "members": to_table(Member, members)}
    ManifestStore(root).commit("build", append=tables)


def linear_code(config: TrainConfig, dataset: Path, videos: list[Sample]) -> Principal:
    """Principal components of the training videos, each at several keyed windows and crops."""
    keys = [(s, ("linear code", s.clip_id, i)) for i in range(CROPS) for s in videos]
    clips = (to_tensor([load_pixels(dataset, s, config.data, key)])[0] for s, key in keys)
    return fit_principal(clips, config.model.latent_channels)


def measure(make: Callable[[Tensor], Tensor], originals: list[Tensor]) -> dict[str, float]:
    """PSNR in dB and the share of fine detail that is left, means over clips."""
    psnr, detail = [], []
    for x in originals:
        with torch.no_grad():
            made = make(x[None])[0].clamp(-1, 1)
        psnr.append(psnr_db(made, x))
        detail.append(_detail(made) / _detail(x))
    return {"psnr_db": sum(psnr) / len(psnr), "detail": sum(detail) / len(detail)}


def trained(config: TrainConfig, dataset: Path, out: Path, originals: list[Tensor]) -> dict[str, float]:
    """The figures of the run's averaged weights, and the seconds that it took."""
    from training.latents import load_tae
    from training.launch import train

    began = time.monotonic()
    if train(config, dataset, out, lambda line: print("  " + line, flush=True)):
        raise SystemExit(f"{out}: the run failed; its log is in worker.log")
    seconds = time.monotonic() - began
    tae, _ = load_tae(out)
    return {**measure(lambda x: tae(x)[0], originals), "seconds": seconds}


def main() -> None:
    """Prints every figure and exits with 1 when the linear code is not beaten."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dailies-tae")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--gan-steps", type=int, default=500)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from pipelines import config as configuration

    dataset = build_dataset(given.work)
    config = configuration.load(TrainConfig, "train/tae", "tiny64", [f"steps={given.steps}"] if given.steps else [])
    plan = Plan(config.plan_settings(0), load_samples(dataset, 0))
    videos = [s for s in plan.samples if s.kind == "video"]
    held = [s for s in plan.held_out if s.kind == "video"]
    originals = [to_tensor([load_pixels(dataset, s, config.data, None)])[0] for s in held]
    print(f"{len(videos)} training videos, {len(held)} held out of {len({s.group for s in held})} assets, {config.data.size_px} px")
    principal = linear_code(config, dataset, videos)
    figures = {"linear": measure(principal.reconstruct, originals)}
    print(f"linear code   {figures['linear']}", flush=True)
    figures["tae"] = trained(config, dataset, given.work / f"tae-{config.steps}", originals)
    print(f"tae           {figures['tae']}", flush=True)
    for name, weight in (("gan off", 0.0), ("gan on", 0.3)) if given.gan_steps else ():
        loss = dataclasses.replace(config.loss, gan_weight=weight, gan_start_step=given.gan_steps // 5)
        short = dataclasses.replace(config, steps=given.gan_steps, loss=loss, validate_every=10_000)
        figures[name] = trained(short, dataset, given.work / f"{name.replace(' ', '-')}-{given.gan_steps}", originals)
        print(f"{name:<13} {figures[name]}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    beaten = figures["tae"]["psnr_db"] > figures["linear"]["psnr_db"]
    print(
        f"PSNR {figures['tae']['psnr_db']:.2f} dB against {figures['linear']['psnr_db']:.2f} dB of the linear code: {'beaten' if beaten else 'missed'}"
    )
    raise SystemExit(not beaten)


def _detail(x_CTHW: Tensor) -> float:
    """Mean absolute difference of pixels that lie side by side, or one above the other."""
    return float(x_CTHW.diff(dim=-1).abs().mean() + x_CTHW.diff(dim=-2).abs().mean())


if __name__ == "__main__":
    main()
