"""Films whose sound is known: a drawn ball that bounces, and a ping at each bounce; and a dataset of them, in shards with a manifest."""

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.ids import clip_id, digest
from manifests.records import Caption, Clip, Member, Shard
from manifests.schema import to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestStore

RATE_HZ = 48_000
FPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounces:
    """A film of `seconds` in which a ball hits the ground at `times_s`, with a ping of `pitch_hz` each time."""

    times_s: tuple[float, ...]
    seconds: float = 4.0
    pitch_hz: float = 520.0
    side_px: int = 64
    caption: str = "A ball bounces."

    def moved(self, by_s: float) -> "Bounces":
        """The same with every bounce so much later."""
        return dataclasses.replace(self, times_s=tuple(t + by_s for t in self.times_s))


def draw_bounces(n: int, seed: int, seconds: float = 4.0) -> list[Bounces]:
    """Films that differ in when the ball bounces: every 0.7 to 1.1 s, from a time of its own on."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    films = []
    for _ in range(n):
        at, times = float(rng.uniform(0.25, 0.7)), []
        while at < seconds - 0.15:
            times.append(round(at, 3))
            at += float(rng.uniform(0.7, 1.1))
        films.append(Bounces(times_s=tuple(times), seconds=seconds))
    return films


def frames_of(film: Bounces) -> NDArray[np.uint8]:
    """Pictures (T, H, W, 3) at 24 a second: a bright disc over dark ground, at a height of 4 u (1 - u) between two bounces."""
    side, n = film.side_px, round(film.seconds * FPS)
    y, x = np.mgrid[0:side, 0:side] / side
    edges = [film.times_s[0] - 0.9, *film.times_s, film.times_s[-1] + 0.9]
    frames = np.empty((n, side, side, 3), np.uint8)
    for i in range(n):
        t = i / FPS
        after = int(np.searchsorted(edges, t, "right"))
        u = 0.0
        if 0 < after < len(edges):
            u = (t - edges[after - 1]) / (edges[after] - edges[after - 1])
        height = 4 * u * (1 - u)
        disc = np.clip((0.14 - np.hypot(x - 0.5, y - (0.78 - 0.6 * height))) * 60, 0, 1)
        ground = np.where(y > 0.92, 110, 40)
        frames[i] = (ground + (235 - ground) * disc).astype(np.uint8)[..., None]
    return frames


def sound_of(film: Bounces) -> NDArray[np.float32]:
    """Mono samples: at each bounce a sine that begins at once and fades by a factor of e in 60 ms."""
    t = np.arange(round(film.seconds * RATE_HZ)) / RATE_HZ
    made = np.zeros_like(t)
    for at in film.times_s:
        since = t - at
        made += np.where(since >= 0, 0.6 * np.exp(-np.clip(since, 0, None) / 0.06) * np.sin(2 * np.pi * film.pitch_hz * since), 0)
    return made.astype(np.float32)


def encode_film(frames: NDArray[np.uint8], sound: NDArray[np.float32] | None, late_s: float = 0.0) -> bytes:
    """An mp4 of H.264 at 24 pictures a second and AAC at 48 kHz, the sound beginning `late_s` after the first picture."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options={"crf": "18", "threads": "1"})
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        audio: Any = None if sound is None else container.add_stream("aac", rate=RATE_HZ, layout="mono", options={"b": "192k"})
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None:
            for at in range(0, len(sound), 1024):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, at : at + 1024]), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE_HZ, at + round(late_s * RATE_HZ)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return sink.getvalue()


def build_sound_dataset(root: Path, films: Sequence[Bounces], sounds: Sequence[NDArray[np.float32]] = ()) -> Path:
    """A dataset with a shard of the films, set `films`, and one of sounds alone, set `sounds` (FLAC, named by their whole seconds), every clip
    kept, captioned and of an asset of its own; committed as manifest version 0."""
    from training.hearing import encode_flac

    clips, shards, members, captions = [], [], [], []
    for kind, extension, payloads in (
        ("video", "mp4", [encode_film(frames_of(f), sound_of(f)) for f in films]),
        ("audio", "flac", [encode_flac(s) for s in sounds]),
    ):
        if not payloads:
            continue
        names = [clip_id(digest("asset", kind, i), kind, 0, 1) for i in range(len(payloads))]
        order, shard_no = np.argsort(names), len(shards)
        n_frames = round(films[0].seconds * FPS) if kind == "video" else None
        bucket = f"1x1_{n_frames}f" if kind == "video" else f"{len(sounds[0]) // RATE_HZ}s"
        set_name = "films" if kind == "video" else "sounds"
        path = f"shards/{set_name}/{bucket}/{set_name}-{bucket}-000000.tar"
        written = write_shard(root / path, [Payload(clip_id=names[i], extension=extension, data=payloads[i]) for i in order])
        common: dict[str, Any] = {"n_frames": n_frames, "fps_num": FPS if n_frames else None, "fps_den": 1 if n_frames else None}
        side = films[0].side_px if kind == "video" else None
        shards.append(
            Shard(
                shard_no=shard_no, path=path, set_name=set_name, bucket=bucket, width=side, height=side, size_bytes=written.size_bytes,
                sha256=written.sha256, n_samples=len(payloads), encode_digest="test", created_run_no=0, **common,
            )
        )  # fmt: skip
        for i, placed in zip(order, written.members, strict=True):
            no = len(clips)
            asset: dict[str, Any] = {"asset_id": digest("a", no), "asset_no": no, "start_us": 0, "end_us": 4_000_000}
            clips.append(
                Clip(
                    clip_id=placed.clip_id,
                    clip_no=no,
                    kind=kind,
                    decision="keep",
                    caption_no=no,
                    has_audio=True,
                    silence_fraction=0.2,
                    **asset,
                )
            )
            said = films[i].caption if kind == "video" else "A tone."
            captions.append(Caption(caption_no=no, clip_no=no, text=said, captioner="sidecar", captioner_version="1"))
            members.append(Member(shard_no=shard_no, clip_no=no, **dataclasses.asdict(placed), **common))
    tables = {"clips": (Clip, clips), "captions": (Caption, captions), "shards": (Shard, shards), "members": (Member, members)}
    ManifestStore(root).commit("build", append={name: to_table(record, rows) for name, (record, rows) in tables.items()})
    return root


def film_of_clip(films: Sequence[Bounces], clip: str) -> Bounces:
    """Which film a clip of `build_sound_dataset` is."""
    return next(f for i, f in enumerate(films) if clip_id(digest("asset", "video", i), "video", 0, 1) == clip)
