"""Gradual transitions: what is measured on samples, the network in plain numpy, and every kind of transition between real clips."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks import joins
from curation.cut_series import ShotObserver
from curation.observe import Frame
from curation.orientation import Orientation
from curation.scan import tracks_of
from curation.shots import ShotsConfig, find_shots
from curation.tracks import by_name
from curation.transitions import FIELDS, HALF_WINDOWS, SAMPLE_US, WEIGHTS, TransitionSampler, load_weights, probabilities, spans
from tests.media_makers import scene


def frame_of(picture: np.ndarray, pts_us: int) -> Frame:
    """Luma and grey chroma of an RGB picture of 160 x 90."""
    grey = np.full((45, 80), 128, np.uint8)
    return Frame(pts_us, picture.mean(2).astype(np.uint8), grey, grey, None, Orientation())  # type: ignore[arg-type]


def sampled(pictures: list[np.ndarray], step_us: int = SAMPLE_US):
    """The track of pictures shown one a step."""
    sampler = TransitionSampler()
    for i, picture in enumerate(pictures):
        sampler.push(frame_of(picture, i * step_us))
    return sampler.finish()


def test_a_dissolve_is_a_mixture_and_a_wipe_is_one_in_parts() -> None:
    """Half-way through a dissolve all blocks hold half of both; half-way through a wipe each holds one."""
    a, b = (scene(k, 160, 90).astype(np.float32) for k in (1, 2))
    for kind, decided, spread in (("dissolve", 0.0, 0.0), ("wipe", 0.9, 0.25)):
        shown = [joins.mixed(kind, a, b, share, 0.0).astype(np.uint8) for share in (0, 0.25, 0.5, 0.75, 1)]
        track = sampled(shown)
        middle = dict(zip(FIELDS, track.values[2], strict=True))
        assert middle["share_2"] == pytest.approx(0.5, abs=0.08)
        assert middle["local_misfit_2"] < 0.05
        assert middle["detour_2"] == pytest.approx(1.0, abs=0.05)
        assert middle["decided_2"] == pytest.approx(decided, abs=0.15)
        assert middle["spread_2"] == pytest.approx(spread, abs=0.06)


def test_samples_are_compared_in_windows_that_exist() -> None:
    """Near the ends of a video the wide windows are not measured, and every sample is recorded once, in order."""
    track = sampled([scene(k % 3, 160, 90) for k in range(45)])
    assert track.pts_us.tolist() == [i * SAMPLE_US for i in range(45)]
    for half in HALF_WINDOWS:
        known = ~np.isnan(track[f"change_{half}"])
        assert known.tolist() == [half <= i < 45 - half for i in range(45)]


def test_samples_keep_their_spacing_at_any_rate() -> None:
    """At 60 frames a second there are 8 samples a second, at 4 a second each frame is one."""
    for fps, count in ((60, 16), (4, 8)):
        sampler = TransitionSampler()
        for i in range(2 * fps):
            sampler.push(frame_of(scene(1, 160, 90), i * 1_000_000 // fps))
        assert abs(len(sampler.finish()) - count) <= 1


def test_the_network_is_the_one_torch_trains() -> None:
    """The plain numpy network gives what torch's layers give with the same weights."""
    torch = pytest.importorskip("torch")
    from curation.transitions import LAYERS

    weights = load_weights()
    x = np.random.Generator(np.random.Philox(key=1)).normal(size=(50, weights["w0"].shape[1])).astype(np.float32)
    y = torch.from_numpy(x.T[None])
    for i, (dilation, wide) in enumerate(LAYERS):
        padding = dilation if wide else 0
        y = torch.nn.functional.conv1d(
            y, torch.from_numpy(weights[f"w{i}"]), torch.from_numpy(weights[f"b{i}"]), dilation=dilation, padding=padding
        )
        y = torch.relu(y) if wide else y
    np.testing.assert_allclose(probabilities(x, weights), torch.sigmoid(y[0, 0]).numpy(), atol=1e-4)


def test_the_weights_are_small() -> None:
    """At most 1 MB beside the code."""
    assert WEIGHTS.stat().st_size <= 1_000_000


def test_spans_reach_a_peak_and_end_at_the_edge() -> None:
    """A span is kept if it reaches the peak somewhere, and reaches from the last sample before to the first after."""
    p = np.array([0.0, 0.4, 0.9, 0.4, 0.0, 0.4, 0.4, 0.0, 0.9])
    assert spans(p, np.arange(9) * 10, 0.8, 0.3) == [(0, 40), (70, 80)]


@pytest.fixture(scope="module")
def real_shots(media: Path) -> list[joins.Source]:
    """Three real shots that neither thresholds nor the network were tuned on."""
    names = ("sea_360p.mp4", "dog_in_bed_720p.mp4", "mdn_flower.mp4")
    assert all(joins.half_of(joins.content_of(f"video/{n}", joins.copy_groups(media))) == "score" for n in names)
    return [s for s in (joins.load(media, f"video/{n}", 2, 72) for n in names) if s is not None]


@pytest.mark.parametrize("kind", ["dissolve", "fade_black", "wipe", "iris"])
def test_every_kind_is_found_between_real_shots(kind: str, real_shots: list[joins.Source], tmp_path: Path) -> None:
    """One second of each kind between three real shots, in a file of uneven times, is kept out of all shots."""
    shots = [joins.Camera(s, np.random.Generator(np.random.Philox(key=i)), calm=True) for i, s in enumerate(real_shots)]
    joined = joins.Joined(fps=25.0)
    for i, t in enumerate(np.arange(0, 9, 0.04)):
        number, share = int(t // 3), np.clip((t % 3 - 2) / 1.0, 0, 1)
        frame = shots[number].picture(t, 0.04)
        if number < 2 and share > 0:
            frame = joins.mixed(kind, frame, shots[number + 1].picture(t, 0.04), share, 0.3)
        if i % 5 != 3:  # every fifth frame is missing
            joined.frames.append(np.clip(frame, 0, 255).astype(np.uint8))
            joined.times_us.append(round(t * 1000) * 1000)
    path = tmp_path / "joined.mkv"
    joins.write(joined, path)
    found = find_shots(by_name(tracks_of(str(path), [ShotObserver()])), 9_000_000, ShotsConfig())
    assert [s.opens for s in found] == ["start", "gradual", "gradual"]
    for (before, after), start in zip(itertools.pairwise(found), (2_000_000, 5_000_000), strict=True):
        assert abs(before.end_us - start) <= 400_000
        assert abs(after.start_us - start - 1_000_000) <= 400_000


@pytest.mark.parametrize("gain", [0.5, 1.6])
def test_a_change_of_light_is_not_a_transition(gain: float, real_shots: list[joins.Source], tmp_path: Path) -> None:
    """A real shot of a still camera that grows darker by half, or lighter, over a second stays one shot."""
    shot = joins.Camera(real_shots[2], np.random.Generator(np.random.Philox(key=1)), calm=True)
    times = np.arange(0, 6, 0.04)
    frames = [np.clip(shot.picture(t, 0.04) * np.interp(t, [2, 3], [1, gain]), 0, 255).astype(np.uint8) for t in times]
    joins.write(joins.Joined(frames=frames, times_us=[round(t * 1000) * 1000 for t in times], fps=25.0), tmp_path / "light.mkv")
    tracks = by_name(tracks_of(str(tmp_path / "light.mkv"), [ShotObserver()]))
    assert len(find_shots(tracks, 6_000_000, ShotsConfig())) == 1


def test_generated_joins_are_the_same_each_time(real_shots: list[joins.Source]) -> None:
    """The same number gives the same frames, times and truth."""
    first, second = joins.make(real_shots, 7, joins=1), joins.make(real_shots, 7, joins=1)
    assert (first.truth, first.times_us) == (second.truth, second.times_us)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, second.frames, strict=True))
