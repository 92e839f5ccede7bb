"""How right the measures of sound are: silence and speech against labels and made truth, loudness against FFmpeg's ebur128 filter.

python benchmarks/accuracy_audio.py [MEDIA]
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table
from curation.audio import AudioConfig, SoundObserver, SoundSpanConfig, measure_sound, plan_sound
from curation.decode import decode_sound
from curation.media import MediaConfig
from curation.sound import Sound
from curation.soundtrack import RATE_HZ, Soundtrack, SoundtrackWriter, samples_between
from curation.speech import DetectSpeech, SpeechConfig
from curation.tracks import Track
from manifests.records import Clip

ROOT = Path(__file__).resolve().parents[1]
SPEAKS = 0.05
"""A clip of which so much is speech speaks; a third of a second in the shortest clip of 6 s."""
SILENT = 0.5
"""A clip of which so much is silent is silence-dominated (conf/rules/paper.yaml)."""
VIDEOS = ("azure_bumper_1080p.mp4", "bbb_rabbit_240p_13s.mp4", "bbb_intro_720p_30s.webm", "fishes.wmv", "terminal_480p.webm", "chaplin.mp4")
"""Videos whose sound is compared: AAC in stereo and 5.1, Vorbis, WMA Pro, Opus, MP3."""
SPEECH_SOURCES = ("jfk_16k.wav", "paa_count.wav", "sb_spk1_snt1.wav", "librispeech_0001.flac", "google_hello.wav", "silero_test.mp3")
NOISE_SOURCES = ("moviepy_rain.mp3", "sb_noise2.wav", "moviepy_crunching.mp3", "rooster.mp3")


def figures(media: Path) -> list[Figure]:
    """All figures of the subject."""
    truth = json.loads((ROOT / "tests" / "data" / "audio_truth.json").read_text())["files"]
    detect = DetectSpeech(SpeechConfig())
    heard = {name: hear(media / "audio" / name) for name in truth}
    sure = [n for n in truth if truth[n]["sure"]]
    speech = {n: speaks(*heard[n], detect) == truth[n]["speech"] for n in truth}
    silence = {n: silent(*heard[n]) == truth[n]["silent"] for n in truth}
    everything = [*(media / "audio" / n for n in truth), *(media / "video" / n for n in VIDEOS)]
    gaps = [difference(path) for path in everything]
    n_loud = sum(g is not None for g, *_ in gaps)
    observing, detecting = costs(media / "audio" / "mdn_viper.mp3", detect)
    mixed, mixed_right = noisy_speech(media, detect)
    made, made_right = made_silence()
    return [
        Figure(subject="audio", what="silence, verdicts", value=_share(silence.values()), target=1, on=f"{len(silence)} real sounds, wholly near silence or not"),
        Figure(subject="audio", what="silence, verdicts at 0.5", value=made_right / made, target=0.95, on=f"{made} made sounds, silent share off 0.5 by 0.03 or more"),
        Figure(subject="audio", what="speech, verdicts", value=_share(speech[n] for n in sure), target=1, on=f"{len(sure)} real sounds with a sure label; threshold 0.05 chosen on them"),
        Figure(subject="audio", what="speech, verdicts, doubtful labels too", value=_share(speech.values()), target=1, on=f"{len(speech)} real sounds"),
        Figure(subject="audio", what="speech in noise, verdicts", value=mixed_right / mixed, target=0.95, on=f"{mixed} mixes of real speech with real noise at 15, 10 and 5 dB, and the noises alone"),
        Figure(subject="audio", what="integrated loudness, largest difference to ebur128, LU", value=max(g for g, *_ in gaps if g is not None), target=0.2, at_least=False, on=f"{n_loud} real sounds and videos, mono to 5.1"),
        Figure(subject="audio", what="sample peak, largest difference to ebur128, dB", value=max(p for _, p, _ in gaps), target=0.2, at_least=False, on=f"{len(gaps)} real sounds and videos"),
        Figure(subject="audio", what="true peak, largest difference to ebur128, dB", value=max(t for *_, t in gaps), target=0.2, at_least=False, on=f"{len(gaps)} real sounds and videos"),
        Figure(subject="audio", what="CPU of the observer with its copy over FFmpeg's ebur128 with peaks", value=observing, target=1, at_least=False, on="41 s of 44.1 kHz music, best of 3"),
        Figure(subject="audio", what="CPU of speech detection over the same", value=detecting, target=1, at_least=False, on="the same, best of 3; targets ours"),
    ]  # fmt: skip


def hear(path: Path) -> tuple[Track, list[Soundtrack]]:
    """The track and the copy of a file's sound."""
    observer = SoundObserver("a")
    decode_sound(str(path), MediaConfig(), observer.push)
    return observer.finish()[0], observer.soundtracks


def clips_of(rows: list[Soundtrack]) -> list[Clip]:
    """The clips of a sound file."""
    start, end = rows[0].start_us, rows[-1].end_us
    return [
        Clip(clip_id=str(a), asset_id="a", kind="audio", start_us=a, end_us=b) for a, b in plan_sound(start, end - start, SoundSpanConfig())
    ]


def speaks(track: Track, rows: list[Soundtrack], detect: DetectSpeech) -> bool:
    """Whether some clip of the sound speaks."""
    scores = detect([(clip, rows) for clip in clips_of(rows)])
    return any((s.speech_fraction or 0) >= SPEAKS for s in scores)


def silent(track: Track, rows: list[Soundtrack]) -> bool:
    """Whether every clip of the sound is near silence throughout."""
    return all(measure_sound(c, {"sound": track}, AudioConfig())["silence_fraction"] > 0.95 for c in clips_of(rows))


def difference(path: Path) -> tuple[float | None, float, float]:
    """How far integrated loudness (None where FFmpeg finds silence), sample peak and true peak are from FFmpeg's."""
    import imageio_ffmpeg

    track, _ = hear(path)
    clip = Clip(clip_id="c", asset_id="a", kind="audio", start_us=int(track.pts_us[0]), end_us=int(track.pts_us[-1]) + 100_000)
    found = measure_sound(clip, {"sound": track}, AudioConfig())
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-i",
        str(path),
        "-vn",
        "-af",
        "ebur128=peak=sample+true",
        "-f",
        "null",
        "-",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    said = said[said.rindex("Summary:") :]
    names = ("I", r"Sample peak:\s+Peak", r"True peak:\s+Peak")
    loudness, peak, true = (float(re.search(rf"{name}:\s+(\S+)", said)[1]) for name in names)  # type: ignore[index]
    ours = found["loudness_lufs"]
    off = None if ours is None or loudness <= -70 else abs(ours - loudness)
    return off, abs(found["peak_db"] - peak), abs(found["true_peak_db"] - true)


def noisy_speech(media: Path, detect: DetectSpeech) -> tuple[int, int]:
    """(verdicts, right ones) on speech mixed with noise at three ratios, and on the noises alone."""
    verdicts = right = 0
    for noise_name in NOISE_SOURCES:
        noise = _samples(media / "audio" / noise_name)
        verdicts, right = verdicts + 1, right + (not _speaks_samples(noise, detect))
        for speech_name in SPEECH_SOURCES:
            speech = _samples(media / "audio" / speech_name)
            bed = np.resize(noise, len(speech))
            for ratio_db in (15, 10, 5):
                gain = np.sqrt(_loud_power(speech) / _loud_power(bed)) * 10 ** (-ratio_db / 20)
                verdicts, right = verdicts + 1, right + _speaks_samples(speech + gain.astype(np.float32) * bed, detect)
    return verdicts, right


def made_silence() -> tuple[int, int]:
    """(verdicts, right ones) on 8 s of noise and tones in pieces, of which a known share is near silence (-75 to -55 dBFS)."""
    verdicts = right = 0
    for seed in range(200):
        rng = np.random.Generator(np.random.Philox(key=seed))
        rate = int(rng.choice([16000, 44100, 48000]))
        share = float(rng.uniform(0, 1))
        if abs(share - SILENT) < 0.03:
            continue
        n, pieces = 8 * rate, int(rng.integers(1, 5))
        edges = np.sort(rng.uniform(0, 1, pieces - 1))
        loud = np.diff(np.concatenate([[0], edges, [1]])) * (1 - share)
        quiet = np.diff(np.concatenate([[0], np.sort(rng.uniform(0, 1, pieces - 1)), [1]])) * share
        level = np.concatenate(
            [
                np.full(round(n * length), db)
                for a, b in zip(loud, quiet, strict=True)
                for length, db in ((a, rng.uniform(-40, -6)), (b, rng.uniform(-75, -55)))
            ]
        )
        wave = (rng.standard_normal(len(level)) * 10 ** (level / 20)).astype(np.float32)
        observer = SoundObserver("a")
        observer.push(Sound(samples=wave[None], rate_hz=rate, start_us=0, channels=("FC",)))
        clip = Clip(clip_id="c", asset_id="a", kind="audio", start_us=0, end_us=len(wave) * 1_000_000 // rate)
        found = measure_sound(clip, {"sound": observer.finish()[0]}, AudioConfig())["silence_fraction"]
        verdicts, right = verdicts + 1, right + ((found < SILENT) == (share < SILENT))
    return verdicts, right


def costs(path: Path, detect: DetectSpeech) -> tuple[float, float]:
    """CPU time of the observer with its copy, and of speech detection from the copy, over that of FFmpeg's ebur128 with peaks on the same
    sound; each the best of three, in turn."""
    pieces: list[Sound] = []
    decode_sound(str(path), MediaConfig(), pieces.append)
    peer, observing, detecting = [], [], []
    for _ in range(3):
        observer = SoundObserver("a")
        peer.append(_cpu_s(_ebur128, pieces))
        observing.append(_cpu_s(_observe, observer, pieces))
        detecting.append(_cpu_s(detect, [(clip, observer.soundtracks) for clip in clips_of(observer.soundtracks)]))
    return min(observing) / min(peer), min(detecting) / min(peer)


def _cpu_s(work: Callable[..., object], *given: object) -> float:
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def _observe(observer: SoundObserver, pieces: list[Sound]) -> None:
    for piece in pieces:
        observer.push(piece)
    observer.finish()


def _ebur128(pieces: list[Sound]) -> None:
    """The pieces have gone through FFmpeg's filter, in this process and without a file."""
    from av import AudioFrame
    from av.error import BlockingIOError, EOFError
    from av.filter import Graph

    rate, layout = pieces[0].rate_hz, "stereo" if len(pieces[0].channels) == 2 else "mono"
    graph = Graph()
    source = graph.add_abuffer(sample_rate=rate, format="fltp", layout=layout, time_base=Fraction(1, rate))
    meter = graph.add("ebur128", "peak=sample+true:framelog=quiet")
    sink = graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    n = 0
    for piece in pieces:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(piece.samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, n, Fraction(1, rate)
        n += piece.samples.shape[1]
        graph.push(frame)
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                graph.pull()


def _samples(path: Path) -> np.ndarray:
    rows = hear(path)[1]
    sound = samples_between(rows, rows[0].start_us, rows[-1].end_us)
    assert sound is not None
    return sound


def _speaks_samples(samples: np.ndarray, detect: DetectSpeech) -> bool:
    writer = SoundtrackWriter("a")
    writer.push(np.clip(samples, -1, 1), RATE_HZ, 0)
    writer.finish()
    scores = detect([(clip, writer.rows) for clip in clips_of(writer.rows)])
    return any((s.speech_fraction or 0) >= SPEAKS for s in scores)


def _loud_power(samples: np.ndarray) -> float:
    """Power of the louder half of 100 ms windows: pauses do not count as speech."""
    windows = np.square(samples[: len(samples) // 1600 * 1600].reshape(-1, 1600)).mean(axis=1)
    return float(np.sort(windows)[len(windows) // 2 :].mean()) + 1e-12


def _share(verdicts: Iterable[bool]) -> float:
    found = list(verdicts)
    return sum(found) / len(found)


if __name__ == "__main__":
    print(as_table(figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "media")))
