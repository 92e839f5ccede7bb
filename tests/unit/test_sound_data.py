"""Sound out of shards: exact windows by the container's time, in sync with the pictures; who takes part in which stage."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sound_events import (
    FPS,
    RATE_HZ,
    Bounces,
    build_sound_dataset,
    draw_bounces,
    encode_film,
    film_of_clip,
    frames_of,
    sound_of,
)
from training.data.batch import BatchLoader
from training.data.config import DataConfig
from training.data.index import Sample, load_samples, read_samples, write_samples
from training.data.plan import Plan, PlanSettings, replay
from training.data.sound import HOP, decode_sound, load_sound, measured_key
from training.errors import SampleError, TrainingError
from training.hearing import encode_flac, write_sounds
from training.onsets import heard_s
from training.tasks.task import Heard
from training.validate import load_held_out

FILM = Bounces(times_s=(0.4, 1.1), seconds=1.6, side_px=32)
CONFIG = DataConfig(sound_frames=20, n_frames=4, size_px=16, resize_px=16, global_batch=2, holdout_share=0.2, validate_clips=4)


def settings(**changes: object) -> PlanSettings:
    """A plan of 0.8 s of sound."""
    base = {
        "stage": "codec", "manifest_version": 0, "sets": (), "seed": 3, "global_batch": 2, "image_batches": 1, "video_batches": 3,
        "holdout_share": 0.2, "min_frames": 1, "sound_frames": 20,
    }  # fmt: skip
    return PlanSettings(**{**base, **changes})


@pytest.fixture(scope="module")
def films() -> list[Bounces]:
    """Four films."""
    return [dataclasses.replace(f, side_px=32) for f in draw_bounces(4, seed=9, seconds=2.0)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, films: list[Bounces]) -> Path:
    """The films, and three sounds alone."""
    sounds = [sound_of(f) for f in draw_bounces(3, seed=4, seconds=2.0)]
    return build_sound_dataset(tmp_path_factory.mktemp("sounds"), films, sounds)


@pytest.fixture(scope="module")
def samples(dataset: Path) -> list[Sample]:
    """Its index."""
    return load_samples(dataset, 0)


def test_a_window_is_exact_to_the_sample() -> None:
    """From FLAC, any window is what was stored, to its 16 bits; what lies before or behind it is not touched."""
    sound = sound_of(FILM)
    for start in (0, 1, 12_345):
        window = decode_sound(encode_flac(sound), "x", "flac", Fraction(start), 20_000)
        np.testing.assert_allclose(window, sound[start : start + 20_000], atol=2.5 / 32767)


def test_a_window_of_a_film_begins_with_its_picture() -> None:
    """From mp4, sound is placed by presentation times: AAC's delay is not heard, a track that begins later is silent until then."""
    sound, data = sound_of(FILM), encode_film(frames_of(FILM), sound_of(FILM))
    window = decode_sound(data, "x", "mp4", Fraction(RATE_HZ, 4), 40_000)
    assert np.corrcoef(window, sound[12_000:52_000])[0, 1] > 0.999
    late = decode_sound(encode_film(frames_of(FILM), sound, late_s=0.3), "x", "mp4", Fraction(0), 72_000)
    assert heard_s(late) == pytest.approx([0.7, 1.4], abs=0.011)


def test_stereo_is_averaged_and_other_rates_are_brought_to_ours(tmp_path: Path) -> None:
    """Two channels become their mean, and 24 kHz sounds at its own pitch."""
    import av

    path, t = tmp_path / "stereo.flac", np.arange(24_000) / 24_000
    with av.open(str(path), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=24_000, layout="stereo")
        both = np.stack([np.sin(2 * np.pi * 440 * t), np.zeros_like(t)], 1)
        frame = av.AudioFrame.from_ndarray((both * 32000).astype(np.int16).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 24_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    window = decode_sound(path.read_bytes(), "x", "flac", Fraction(9600), 24_000)
    wanted = 0.5 * 32000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(9600, 33_600) / RATE_HZ)
    np.testing.assert_allclose(window, wanted, atol=0.01)


@pytest.mark.parametrize(
    ("data", "demuxer", "message"),
    [
        (encode_film(frames_of(FILM), None), "mp4", "expected a sound stream, found none"),
        (b"not a container", "flac", "clip x: (open|decode): expected"),
        (encode_film(frames_of(FILM), sound_of(FILM))[:900], "mp4", ""),
    ],
    ids=["silent film", "no media", "truncated"],
)
def test_what_has_no_sound_is_a_sample_error(data: bytes, demuxer: str, message: str) -> None:
    """A film without a sound stream, foreign bytes and a cut file are refused by name, so that a reserve takes their place."""
    with pytest.raises(SampleError, match=message):
        decode_sound(data, "clip x", demuxer, Fraction(0), 9600)


def test_sound_behind_the_end_is_a_sample_error() -> None:
    """A window of which the stream has nothing is refused and not given as silence."""
    with pytest.raises(SampleError, match="sound from 5 s on"):
        decode_sound(encode_flac(sound_of(FILM)), "x", "flac", Fraction(5 * RATE_HZ), 9600)


def test_a_drawn_silent_window_is_refused_and_a_measured_one_is_not(samples: list[Sample]) -> None:
    """Training takes another sample for a silent window; a measurement takes what is there, so that its clips never change."""
    sample = next(s for s in samples if s.kind == "audio")
    silence = encode_flac(np.zeros(2 * RATE_HZ, np.float32))
    assert not load_sound(silence, sample, 20, None)["sound"].any()
    with pytest.raises(SampleError, match="silence"):
        load_sound(silence, sample, 20, ("key",))


def test_a_held_out_sound_is_measured_where_it_is_heard(dataset: Path, samples: list[Sample], tmp_path: Path) -> None:
    """One that begins at once is measured in its first window; one that fades in from near silence in the loudest of a few, always the same."""
    sample = next(s for s in samples if s.kind == "audio")
    sound = sound_of(draw_bounces(1, seed=4, seconds=2.0)[0]) + 0.05 * np.sin(np.arange(2 * RATE_HZ) / 20).astype(np.float32)
    assert measured_key(encode_flac(sound), sample, 20) is None
    late = sound * (np.arange(len(sound)) > RATE_HZ)
    key = measured_key(encode_flac(late), sample, 20)
    assert key is not None and key == measured_key(encode_flac(late), sample, 20)
    assert np.abs(load_sound(encode_flac(late), sample, 20, key)["sound"]).mean() > 0.01
    assert measured_key(encode_flac(np.zeros_like(sound)), sample, 20) is None, "nothing is heard anywhere"


def test_stages_of_sound_take_what_sounds_and_others_only_pictures(samples: list[Sample]) -> None:
    """A plan of sound mixes buckets of films and of sounds as one kind; a plan of pictures knows only the films, and is the same with the
    sounds in the index as without them; silent films take no part in sound."""
    heard = Plan(settings(), samples)
    assert {s.kind for s in heard.samples} == {"video", "audio"} and {heard.batch(i).kind for i in range(6)} == {"audio"}
    for i in range(12):
        assert len({heard.samples[m.position].bucket for m in heard.batch(i).members}) == 1
    seen = Plan(settings(stage="tae", sound_frames=0), samples)
    assert {s.kind for s in (*seen.samples, *seen.held_out)} == {"video"} and "sound_frames" not in seen.inputs
    assert seen.digest == Plan(settings(stage="tae", sound_frames=0), [s for s in samples if s.kind == "video"]).digest
    silent = [dataclasses.replace(s, has_sound=False) if s.kind == "video" else s for s in samples]
    assert {s.kind for s in Plan(settings(), silent).samples} == {"audio"}


def test_a_plan_of_sound_is_replayed_and_refuses_what_is_short(samples: list[Sample], tmp_path: Path) -> None:
    """Its record makes it again from the stored index; a window longer than a sound refuses that sound with the reason."""
    write_samples(tmp_path / "index.parquet", samples)
    plan, again = Plan(settings(), samples), read_samples(tmp_path / "index.parquet")
    assert again == samples and replay(plan.json, again).clip_ids(7) == plan.clip_ids(7)
    with pytest.raises(TrainingError):
        Plan(settings(sound_frames=51), samples)


def test_pictures_and_sound_of_a_batch_are_of_one_window(dataset: Path, samples: list[Sample], films: list[Bounces]) -> None:
    """In a drawn window the ball is lowest when the ping begins: picture and sound agree, in every pass; sounds alone have black pictures
    and say so."""
    config = dataclasses.replace(CONFIG, n_frames=20)
    plan = Plan(settings(), samples)
    loader = BatchLoader(dataset, plan, config, 0, 1)
    kinds = set()
    for batch in loader.batches(0, 6):
        assert batch.beside["sound"].shape == (2, 20 * HOP) and batch.pixels.shape == (2, 3, 20, 16, 16)
        for i, clip in enumerate(batch.clip_ids):
            seen = bool(batch.beside["seen"][i])
            kinds.add(seen)
            if not seen:
                assert not batch.pixels[i].any()
                continue
            film, sound = film_of_clip(films, clip), batch.beside["sound"][i].numpy()
            start = _shift(sound_of(film), sound)
            first = frames_of(film)[round(start * FPS)]
            shown = batch.pixels[i, :, 0].permute(1, 2, 0).float().numpy()
            assert np.abs(shown - first.reshape(16, 2, 16, 2, 3).mean((1, 3))).mean() < 6
    assert kinds == {True, False}


def _shift(whole: np.ndarray, part: np.ndarray) -> float:
    """Seconds after its beginning at which the part is in the whole, on the grid of pictures."""
    places = range((len(whole) - len(part)) * FPS // RATE_HZ + 1)
    errors = [np.abs(whole[(at := p * RATE_HZ // FPS) : at + len(part)] - part).mean() for p in places]
    return int(np.argmin(errors)) / FPS


def test_batches_do_not_depend_on_who_makes_them(dataset: Path, samples: list[Sample]) -> None:
    """One process's batch is those of two, in order; read ahead by threads or not; bit for bit."""
    plan = Plan(settings(), samples)
    for step in (0, 3):
        whole = BatchLoader(dataset, plan, CONFIG, 0, 1).batch(step)
        halves = [next(BatchLoader(dataset, plan, CONFIG, rank, 2).batches(step, step + 1)) for rank in range(2)]
        assert torch.equal(whole.beside["sound"], torch.cat([h.beside["sound"] for h in halves]))
        assert torch.equal(whole.pixels, torch.cat([h.pixels for h in halves]))
        part = whole.part(slice(1, 2))
        assert torch.equal(part.beside["sound"], whole.beside["sound"][1:]) and part.clip_ids == whole.clip_ids[1:]


def test_a_broken_film_is_replaced_and_logged(dataset: Path, samples: list[Sample]) -> None:
    """A payload that is not what the manifest says gives its place to a reserve of its bucket, and the batch says which."""
    hit = next(s.clip_id for s in Plan(settings(), samples).samples if s.kind == "video")
    plan = Plan(settings(), [dataclasses.replace(s, offset=s.offset + 1) if s.clip_id == hit else s for s in samples])
    loader = BatchLoader(dataset, plan, CONFIG, 0, 1)
    swaps = [r for step in range(8) for r in loader.batch(step).replaced]
    assert swaps and {r.planned for r in swaps} == {hit} and all("SHA-256" in r.reason for r in swaps)


def test_held_out_sounds_are_first_windows_and_a_takedown_empties_them(dataset: Path, samples: list[Sample]) -> None:
    """A task is given the first window with its pictures; after a takedown the same shapes with nothing in them."""
    held = Plan(settings(holdout_share=0.6), samples).held_out
    loaded = load_held_out(dataset, held, CONFIG, 0, 1)
    given = loaded.turns[0].given(torch.device("cpu"), torch.float32)
    assert isinstance(given, Heard) and given.sound.shape == (1, 20 * HOP) and given.frames.shape == (1, 3, 4, 16, 16)
    emptied = loaded.without(frozenset({loaded.turns[0].number}))
    assert not emptied.turns[0].beside["sound"].any() and not emptied.turns[0].counted
    assert emptied.turns[0].beside["sound"].shape == loaded.turns[0].beside["sound"].shape


def test_sounds_can_be_seen_and_heard(tmp_path: Path) -> None:
    """A picture of spectrograms and a FLAC of each sound lie side by side; the FLAC is the sound."""
    from PIL import Image

    sound = torch.from_numpy(sound_of(FILM))
    write_sounds(tmp_path / "step-00000000.png", [sound], [sound * 0.5])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000000-0-held_out.flac", "step-00000000-0-made.flac", "step-00000000.png"]
    stored = decode_sound((tmp_path / "step-00000000-0-made.flac").read_bytes(), "x", "flac", Fraction(0), 48_000)
    np.testing.assert_allclose(stored, sound[:48_000] * 0.5, atol=1e-4)
    shown = np.asarray(Image.open(tmp_path / "step-00000000.png"))
    assert shown.shape[0] == 2 * (160 + 4) and shown[:160].mean() > shown[164:324].mean() > 0
