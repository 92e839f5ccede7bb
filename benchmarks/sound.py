"""What the codec and the generator of sound learn from drawn films whose sound is known: a ball that bounces, a ping at each bounce.

    python benchmarks/sound.py [--out FOLDER] [--films 10] [--recordings FOLDER] [--drawn-steps 500] [--audio-steps 500] [--minutes 3] [--json FILE]

Trains `codec` and then `audio` with their tiny presets (in FOLDER, continued if it is there) and prints

    codec       SI-SDR of whole films and of melodies like the samples', held out and trained on: with weights drawn by key, as training
                begins, and at its end; so also of a codec that begins from drawn weights and trains for --drawn-steps, and, with
                --recordings, of one trained on the middle four seconds of each recording of at least that length in a folder
    sees        the loss of films it was trained on with their own pictures, over that with another film's
    onsets      when sound begins in what is made for a trained film, and for the same film with its event moved: F1 against the
                bounces that are seen, and against those of the film that is not
    seams       three minutes of sound for a series of films: level and spectrum between neighbouring half seconds at joins, as z-scores of the
                same elsewhere, for overlapping windows and for segments
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import Figure, as_table
from curation.sample_writers import synthesise
from pipelines import config as configuration
from tests.sound_events import FPS, Bounces, build_sound_dataset, draw_bounces, film_of_clip, frames_of
from training.config import TrainConfig
from training.data.batch import to_tensor
from training.data.index import Sample, load_samples
from training.data.plan import Plan
from training.data.sample import open_shards
from training.data.sound import RATE_HZ, load_shown, load_sound
from training.launch import train
from training.models.spectral import magnitudes, si_sdr_db
from training.onsets import agreement, heard_s
from training.sound_generation import SoundMaker, generate_sound, load_sound_maker, plan_segments, watch
from training.sound_latents import load_codec
from training.tasks.make import make_task
from training.tasks.sound import SoundTask
from training.tasks.task import Heard
from training.windows import windows

DRAWN = ["codec.linear_clips=0", "optim.lr=0.002", "codec.loss.mel_weight=0"]
"""Of a codec that begins from weights drawn by key: it has to find what the linear code brings, at twenty times the rate."""


MAY_LOSE_DB = 2.0
"""What training may lose of SI-SDR against a linear start, for a sound that is more alike in its spectrum and a code that stands noise."""


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--recordings", type=Path, help="folder of sound files")
    parser.add_argument("--drawn-steps", type=int, default=500)
    parser.add_argument("--audio-steps", type=int, default=500)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="dailies-sound-"))
    films = draw_bounces(args.films, seed=1)
    dataset = out / "dataset"
    if not (dataset / "manifest").exists():
        build_sound_dataset(dataset, films, [synthesise("tones", f"melody {i}", 4.0) for i in range(10)])
    processes = f"processes={args.processes}"
    codecs = {"codec": (dataset, [processes])}
    codecs["codec from drawn weights"] = (dataset, [processes, f"steps={args.drawn_steps}", *DRAWN])
    if args.recordings:
        sounds = [piece for path in sorted(args.recordings.iterdir()) if (piece := _recording(path)) is not None]
        if not (out / "recordings" / "manifest").exists():
            build_sound_dataset(out / "recordings", [], sounds)
        codecs["codec on recordings"] = (out / "recordings", [processes])
    trained = {name: _trained("codec", data, out / name.replace(" ", "_"), overrides) for name, (data, overrides) in codecs.items()}
    steps = [f"steps={args.audio_steps}", processes, f"sound.codec={out / 'codec'}", "data.sets=[films]"]
    audio = _trained("audio", dataset, out / "audio", steps)
    torch.set_grad_enabled(False)
    samples = load_samples(dataset, 0)
    found: dict[str, Any] = {"codecs": {n: codec_figures(trained[n], codecs[n][0], out / n.replace(" ", "_")) for n in codecs}}
    maker = load_sound_maker(out / "codec", out / "audio")
    found["sees"] = sees(audio, dataset, out / "audio", samples, maker)
    found["onsets"] = onsets(audio, films, samples, maker)
    found["seams"] = {how: seams(maker, films, args.minutes * 60, how) for how in ("windows", "segments")}
    print(json.dumps(found, indent=1))
    print(as_table(_figures(found)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def codec_figures(config: TrainConfig, dataset: Path, out: Path) -> dict[str, dict[str, float]]:
    """Mean SI-SDR in dB of whole sounds: with weights drawn by key, as training begins, and at its end; of films and of sounds alone, trained
    on and held out."""
    whole = dataclasses.replace(config, data=dataclasses.replace(config.data, sound_frames=100))
    samples = load_samples(dataset, 0)
    plan, figures = Plan(config.plan_settings(0), samples), dict[str, dict[str, float]]()
    states: dict[str, Any] = {
        "drawn": make_task(config, out, draws=False).modules()["codec"],
        "begins": make_task(config, out).modules()["codec"],
        "ends": load_codec(out)[0],
    }
    for where, chosen in (("trained on", plan.samples), ("held out", plan.held_out)):
        for what, kind in (("films", "video"), ("sounds", "audio")):
            if sounds := [_window(whole, dataset, s).sound for s in chosen if s.kind == kind]:
                figures[f"{len(sounds)} {what} {where}"] = {
                    when: statistics.fmean(si_sdr_db(codec(s)[0][0], s[0]) for s in sounds) for when, codec in states.items()
                }
    return figures


def _recording(path: Path, seconds: float = 4.0) -> NDArray[np.float32] | None:
    """The middle of a sound file, mono at 48 kHz; None where it is shorter, or no sound that can be read."""
    import av

    resampler, parts = av.AudioResampler(format="fltp", rate=RATE_HZ, layout="mono"), list[NDArray[np.float32]]()
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                parts += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    except (av.FFmpegError, IndexError, OSError):
        return None
    sound, n = np.concatenate(parts) if parts else np.zeros(0, np.float32), round(seconds * RATE_HZ)
    first = (len(sound) - n) // 2
    return sound[first : first + n].astype(np.float32) if first >= 0 else None


def sees(config: TrainConfig, dataset: Path, out: Path, samples: list[Sample], maker: SoundMaker) -> dict[str, float]:
    """The mean loss of trained films under their own pictures and under those of the next film."""
    task = make_task(config, out)
    if not isinstance(task, SoundTask):
        raise TypeError(f"{out}: expected a task of sound, found {type(task).__name__}")
    heard = [(s, _window(config, dataset, s)) for s in Plan(config.plan_settings(0), samples).samples]
    own, other = [], []
    for i, (sample, window) in enumerate(heard):
        wrong = window._replace(frames=heard[(i + 1) % len(heard)][1].frames)
        for losses, shown in ((own, window), (other, wrong)):
            losses.append(float(task.errors_at(maker.model, shown, [sample.clip_id], torch.float32)[0, 0]))
    return {
        "films": len(heard),
        "own": statistics.fmean(own),
        "other": statistics.fmean(other),
        "ratio": statistics.fmean(own) / statistics.fmean(other),
    }


def onsets(config: TrainConfig, films: list[Bounces], samples: list[Sample], maker: SoundMaker, by_s: float = 0.3) -> dict[str, Any]:
    """Onsets of what is made for trained films and for the same with every bounce moved; F1 within 0.12 s against what is seen, and
    against the bounces of the other of the two, which chance would agree with as well."""
    chosen = [film_of_clip(films, s.clip_id) for s in Plan(config.plan_settings(0), samples).samples]
    seconds, rows = config.data.sound_frames / 25, []
    for film in chosen:
        row: dict[str, Any] = {}
        for name, shown in (("still", film), ("moved", film.moved(by_s))):
            sound = generate_sound(maker, _features(maker, shown, seconds), film.caption, seconds, seed=0)
            row[f"{name}_seen"] = [t for t in shown.times_s if 0 <= t < seconds]
            row[f"{name}_heard"] = heard_s(sound)
        rows.append(row)
    right = [agreement(r[f"{n}_heard"], r[f"{n}_seen"]) for r in rows for n in ("still", "moved")]
    wrong = [agreement(r[f"{n}_heard"], r[f"{m}_seen"]) for r in rows for n, m in (("still", "moved"), ("moved", "still"))]
    return {"moved_by_s": by_s, "f1_right": statistics.fmean(right), "f1_other": statistics.fmean(wrong), "films": rows}


def seams(maker: SoundMaker, films: list[Bounces], seconds: float, how: Any) -> dict[str, float]:
    """The series' sound is made at once; z-scores of the joins: how far the mean change of level, and of spectrum, over a join is above that
    elsewhere, in standard errors of a mean of as many other places. A seam is a change: above; below are joins that are smoother."""
    features = torch.cat([_features(maker, film, film.seconds) for film in films])
    length = round(seconds * 25)
    series = features.repeat(-(-length // len(features)), 1)[:length]
    sound = generate_sound(maker, series, films[0].caption, seconds, seed=1, extension=how)
    size, overlap = maker.window
    if how == "windows":
        joins = sorted({edge for part in windows(length, size, overlap) for edge in part if 0 < edge < length})
    else:
        joins = [end for _, end in plan_segments(length, size, overlap)[:-1]]
    level, spectrum = _changes(sound)
    at = np.zeros(len(level), bool)
    at[[j for j in joins if j < len(at)]] = True
    edge = np.arange(len(level))
    usable = (edge >= 12) & (edge < len(level) - 12)
    rows: dict[str, float] = {"seconds": len(sound) / RATE_HZ, "joins": int((at & usable).sum())}
    for name, change in (("level", level), ("spectrum", spectrum)):
        here, elsewhere = change[at & usable], change[~at & usable]
        rows[f"{name}_z"] = float((here.mean() - elsewhere.mean()) / (elsewhere.std() / len(here) ** 0.5))
    return rows


def _changes(sound: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each latent frame: the change of level in dB, and the distance of the log spectra, between the half second before and after it."""
    spectra = magnitudes(torch.from_numpy(sound)[None], 1920, 1920)[0].square().double()
    padded = torch.nn.functional.pad(spectra, (12, 12)).unfold(1, 12, 1).mean(2)  # (F, places): mean of the 12 frames from there on
    before, after = padded[:, : spectra.shape[1]], padded[:, 12 : 12 + spectra.shape[1]]
    level = (10 * (after.sum(0) + 1e-9).log10() - 10 * (before.sum(0) + 1e-9).log10()).abs()
    bands = [b.reshape(-1, 24, b.shape[1]).mean(1) for b in (before[:960], after[:960])]
    distance = (10 * (bands[1] + 1e-9).log10() - 10 * (bands[0] + 1e-9).log10()).abs().mean(0)
    return level.numpy(), distance.numpy()


def _features(maker: SoundMaker, film: Bounces, seconds: float) -> Tensor:
    frames = to_tensor([frames_of(film)[: round(seconds * FPS)]])[0]
    return watch(maker, frames, FPS)


def _window(config: TrainConfig, dataset: Path, sample: Sample) -> Heard:
    """The sample's first window, as a batch of one."""
    d = config.data
    data = open_shards(dataset, d).read(sample, True)
    sound = load_sound(data, sample, d.sound_frames, None)
    shown = load_shown(data, sample, d.sound_frames, d.n_frames, d.size_px, None)
    frames = to_tensor([np.stack(shown)]) if shown else torch.zeros(1, 3, 0, d.size_px, d.size_px)
    return Heard(torch.from_numpy(sound["sound"])[None], frames, torch.from_numpy(sound["seen"])[None])


def _trained(stage: str, dataset: Path, out: Path, overrides: list[str]) -> TrainConfig:
    config = configuration.load(TrainConfig, f"train/{stage}", "tiny", ["log_every=50", "pictures=1", *overrides])
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, holdout_share=0.2))
    if train(config, dataset, out, lambda line: print(line, file=sys.stderr)) != 0:
        raise SystemExit(f"{out}: training failed, see worker.log")
    return config


def _figures(found: dict[str, Any]) -> list[Figure]:
    heard, seam = found["onsets"], found["seams"]
    films = f"{found['sees']['films']} films it was trained on"

    def row(what: str, value: float, target: float, on: str, at_least: bool = True) -> Figure:
        return Figure(subject="sound", what=what, value=value, target=target, on=on, at_least=at_least)

    return [
        *(row(f"{name}, SI-SDR, dB", at["ends"], 5.0, on) for name, codec in found["codecs"].items() for on, at in codec.items()),
        *(
            row(f"{name}, rise of SI-SDR from weights drawn by key, dB", at["ends"] - at["drawn"], 10.0, on)
            for name, codec in found["codecs"].items()
            for on, at in codec.items()
        ),
        *(
            row(f"{name}, change of SI-SDR by training, dB", at["ends"] - at["begins"], -MAY_LOSE_DB, on)
            for name, codec in found["codecs"].items()
            for on, at in codec.items()
        ),
        row("generator, loss with own over another's pictures", found["sees"]["ratio"], 1.0, films, at_least=False),
        row("onsets, F1 with what is seen", heard["f1_right"], heard["f1_other"], f"{films}, and moved by {heard['moved_by_s']} s"),
        *(
            row(f"{how}, change of {what} at joins, z", seam[how][f"{what}_z"], 3.0, f"{seam[how]['joins']} joins", at_least=False)
            for how in seam
            for what in ("level", "spectrum")
        ),
    ]


if __name__ == "__main__":
    main()
