"""The sample set: its truth follows from the catalogue alone, and the files on disk are what the truth says."""

import hashlib
import json
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import samples
from curation.pictures import PHOTOGRAPHS, Scene, paint
from curation.sample_catalogue import BROKEN, COPIES, FILMS, IMAGES, NO_SIDECAR, RESERVED, SOUNDS
from curation.sample_writers import SAMPLE_RATE_HZ, Copy, edited, synthesise, write_copy, write_film, write_image
from curation.synthesis import Film, Shot, Words, cuts, n_frames, render, ticks, time_base

LEAVES = Scene(key="test/leaves", drawing="leaves", palette="sea")
GLASS = Scene(key="test/glass", drawing="glass", palette="dusk")
CAMERAS = ("pan_right", "pan_left", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "handheld_shot")

TRUTH_SHA256 = "cdb135bfb07df910fa5e12a060a01df1acafa068acbb49a32e4a6c267c8a94df"
"""Of truth.json. When it changes, raise GENERATOR_VERSION: folders made before no longer hold what the truth says."""


def small(camera: Any = "pan_right", **fields: Any) -> Film:
    """A film of two shots of 12 and 9 frames at 96 x 64 px."""
    shots = (Shot(scene=LEAVES, n_frames=12, camera=camera), Shot(scene=GLASS, n_frames=9, camera=camera))
    return Film(**({"name": "small.mp4", "shots": shots, "width": 96, "height": 64} | fields))


def opened(path: Path) -> tuple[Any, list[int], list[np.ndarray]]:
    """Facts of the file's video stream, the times of its frames in us from the first, and the frames as shown, RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = {
            "duration": stream.duration,
            "time_base": stream.time_base,
            "audio": len(container.streams.audio),
            "length_us": container.duration,
        }
        times, shown = [], []
        for frame in container.decode(stream):
            times.append(frame.pts * stream.time_base)
            shown.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            facts["rotation"] = -frame.rotation % 360
    return facts, [round((t - times[0]) * 1_000_000) for t in times], shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The whole set, generated once."""
    yield samples.generate(tmp_path_factory.mktemp("samples")).parent


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[str, Any]:
    """The files' truth as written."""
    files: dict[str, Any] = json.loads((folder / "truth.json").read_text())["files"]
    return files


def test_truth_is_the_same_bytes_everywhere() -> None:
    """Two builds of the truth are equal, and equal to the digest recorded here, whatever the machine."""
    first, second = samples._json(samples.truth()), samples._json(samples.truth())
    assert first == second
    assert hashlib.sha256(first).hexdigest() == TRUTH_SHA256


def test_every_file_is_named_once() -> None:
    """Films, copies, images, sounds and broken files have different names, and the truth knows each of them."""
    names = [f.name for f in FILMS] + [c.name for c in COPIES] + [i.name for i in IMAGES] + [s[0] for s in SOUNDS] + [*BROKEN]
    assert len(names) == len(set(names))
    assert set(samples.truth()["files"]) == set(names)


def test_no_scene_is_shown_twice() -> None:
    """Different films and images show different drawings or parts of photographs that do not overlap, so only listed copies are alike."""
    scenes = [shot.scene for film in FILMS for shot in film.shots] + [image.scene for image in IMAGES]
    drawn = [s.key for s in scenes if not s.photo]
    assert len(drawn) == len(set(drawn))
    for i, a in enumerate(scenes):
        for b in scenes[:i]:
            if a.photo and a.photo == b.photo:
                assert min(a.box[2], b.box[2]) <= max(a.box[0], b.box[0]) + 40 or min(a.box[3], b.box[3]) <= max(a.box[1], b.box[1]), (a, b)


def test_cuts_and_spans_lie_inside_their_film() -> None:
    """Cuts rise and stay inside the film, gradual ones start before they end, shots partition the film, words end with it."""
    files = samples.truth()["files"]
    for film in FILMS:
        truth = files[film.name]
        frames = [c["frame"] for c in truth["cuts"]]
        assert frames == sorted(set(frames)) and all(0 < f < truth["n_frames"] for f in frames), film.name
        assert all((c["start_frame"] == c["frame"]) == (c["kind"] == "hard") for c in truth["cuts"]), film.name
        bounds = [(s["start_us"], s["end_us"]) for s in truth["shots"]]
        assert bounds[0][0] == 0 and bounds[-1][1] == truth["duration_us"]
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        assert all(0 <= w["start_us"] < w["end_us"] <= truth["duration_us"] for w in truth["text_spans"]), film.name


def test_most_films_hold_a_clip_of_four_seconds() -> None:
    """Films last 8 to 13 s, and all have a shot that leaves 4 s between margins after an opening trim of 1 s."""
    files = samples.truth()["files"]
    for film in FILMS:
        truth = files[film.name]
        assert 8_000_000 <= truth["duration_us"] <= 13_000_000, film.name
        spans = [s["end_us"] - max(s["start_us"], 1_000_000) for s in truth["shots"]]
        assert max(spans) >= 4_500_000, film.name


def test_sidecars_state_only_what_is_known() -> None:
    """No sidecar has an empty field; a part whose licence nobody states leaves the whole unstated; reservations and gaps are as listed."""
    all_sidecars = samples.sidecars()
    assert not set(all_sidecars) & {*NO_SIDECAR, *BROKEN}
    assert all(value for fields in all_sidecars.values() for value in fields.values())
    assert {name for name, fields in all_sidecars.items() if fields["training"] == "reserved"} == set(RESERVED)
    assert "licence" not in all_sidecars["coins.jpg"] and PHOTOGRAPHS["coins.png"].licence is None
    assert all_sidecars["upright.jpg"]["licence"] == "CC-PDM-1.0"
    assert "consent" not in all_sidecars["zoom_out.mp4"]


def test_licences_are_spdx() -> None:
    """Every stated licence is a valid SPDX expression."""
    from license_expression import get_spdx_licensing

    for fields in samples.sidecars().values():
        if "licence" in fields:
            assert get_spdx_licensing().parse(fields["licence"], validate=True) is not None


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20)), min_size=1, max_size=5), st.booleans())
def test_times_rise_and_count(lengths: list[tuple[int, int]], vfr: bool) -> None:
    """For any shots: as many times as frames and one end more, strictly rising from 0, and the last cut leaves the last shot's frames."""
    shots = [
        Shot(scene=LEAVES, n_frames=n, camera="static_shot", enter="dissolve" if k and overlap else "hard", overlap=overlap if k else 0)
        for k, (n, overlap) in enumerate(lengths)
    ]
    film = small(shots=tuple(shots), vfr=vfr)
    times = ticks(film)
    assert times[0] == 0 and all(a < b for a, b in pairwise(times)) and len(times) == n_frames(film) + 1
    assert not cuts(film) or cuts(film)[-1].frame == n_frames(film) - shots[-1].n_frames


@pytest.mark.parametrize("camera", CAMERAS)
def test_moving_cameras_move_and_cuts_cut(camera: str) -> None:
    """Neighbouring frames differ a little inside a shot and much more across the cut, whatever the camera does."""
    frames = [f.astype(int) for f in render(small(camera, width=160, height=96))]
    steps = [np.abs(a - b).mean() for a, b in pairwise(frames)]
    assert len(frames) == 21
    assert steps.index(max(steps)) == 11
    assert min(steps) > 0.5


def test_static_shots_stand_still() -> None:
    """Without noise a static shot repeats its frame exactly; words lie on it only in their span and leave it untouched after."""
    words = (Words(text="here", start_frame=3, end_frame=5, place="title"),)
    frames = list(render(small("static_shot", words=words)))
    assert all(np.array_equal(frames[0], frames[i]) for i in (1, 2, 5, 11))
    assert np.array_equal(frames[3], frames[4]) and not np.array_equal(frames[2], frames[3])


def test_fades_pass_through_black_and_dissolves_do_not() -> None:
    """Half way through a fade the picture is nearly black; half way through a dissolve it is a mean of both."""
    for kind, dark in (("fade", True), ("dissolve", False)):
        shots = (
            Shot(scene=LEAVES, n_frames=6, camera="static_shot"),
            Shot(scene=GLASS, n_frames=6, camera="static_shot", enter=kind, overlap=9),
        )
        frames = list(render(small(shots=shots)))
        assert (frames[6 + 4].mean() < 5) == dark
        assert np.array_equal(frames[5], frames[0]) and not np.array_equal(frames[6], frames[0])
        assert not np.array_equal(frames[14], frames[15]) and np.array_equal(frames[15], frames[20])


def test_pictures_depend_on_scene_and_size_alone() -> None:
    """Painting twice gives the same picture, another key another one, from photographs and drawings alike."""
    photo = Scene(key="p", photo="coffee.png", box=(0, 0, 300, 200))
    for scene in (LEAVES, photo):
        assert np.array_equal(paint(scene, 80, 60), paint(scene, 80, 60))
        assert paint(scene, 80, 60).shape == (60, 80, 3)
    assert not np.array_equal(paint(LEAVES, 80, 60), paint(Scene(key="other", drawing="leaves", palette="sea"), 80, 60))


@pytest.mark.parametrize("vfr", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 270])
def test_written_films_have_the_stated_times_and_turn(tmp_path: Path, vfr: bool, rotation: int) -> None:
    """A file carries every presentation time to the microsecond and shows the picture upright, also rotated or at a variable rate."""
    film = small("pan_left", width=64, height=96, vfr=vfr, rotation=rotation, fps=Fraction(30_000, 1001), sound="tones", crf=12)
    write_film(tmp_path / film.name, film)
    facts, times, shown = opened(tmp_path / film.name)
    assert times == [round(t * time_base(film) * 1_000_000) for t in ticks(film)[:-1]]
    assert facts["rotation"] == rotation and facts["audio"] == 1
    assert shown[0].shape == (96, 64, 3)
    assert np.abs(shown[0].astype(int) - next(render(film)).astype(int)).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == [film.name]


def test_copies_look_like_their_film(tmp_path: Path) -> None:
    """Each edited copy has the size it states and the film's times; an exact copy has its bytes."""
    film = small(width=160, height=96)
    write_film(tmp_path / film.name, film)
    for edit, size in (("exact", (160, 96)), ("lowrate", (160, 96)), ("logo", (160, 96)), ("crop", (152, 90)), ("small", (120, 72))):
        copy = Copy(name=f"copy_{edit}.mp4", of=film.name, edit=edit)  # type: ignore[arg-type]
        write_copy(tmp_path / copy.name, copy, film, tmp_path / film.name)
        _, times, shown = opened(tmp_path / copy.name)
        assert shown[0].shape == (size[1], size[0], 3) and len(times) == 21, edit
    assert (tmp_path / "copy_exact.mp4").read_bytes() == (tmp_path / film.name).read_bytes()


def test_logo_covers_little() -> None:
    """A logo changes less than one percent of the picture, in the upper right corner."""
    frame = np.zeros((360, 640, 3), np.uint8)
    changed = np.argwhere(edited(frame, "logo").any(axis=2))
    assert 0 < len(changed) < 0.01 * 360 * 640
    assert changed[:, 0].max() < 60 and changed[:, 1].min() > 560


def test_images_open_upright(tmp_path: Path) -> None:
    """An image with an EXIF turn is stored on its side and shown upright in its stated size."""
    from PIL import Image, ImageOps

    write_image(tmp_path / "a.jpg", LEAVES, 90, 120, rotation=90)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.size == (120, 90)
        upright = np.asarray(ImageOps.exif_transpose(image), int)
    assert np.abs(upright - paint(LEAVES, 90, 120)).mean() < 12


def test_sounds_have_their_level() -> None:
    """Silence is digital zero, quiet is below -60 dBFS and not zero, tones and bursts are heard and never clip."""
    level = {kind: float(np.sqrt(np.mean(synthesise(kind, "k", 1.0) ** 2))) for kind in ("silence", "quiet", "tones", "bursts")}
    assert level["silence"] == 0 and 0 < level["quiet"] < 1e-3 and level["tones"] > 0.05 and level["bursts"] > 0.02
    assert all(np.abs(synthesise(kind, "k", 2.0)).max() < 1 for kind in level)


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    """A set of another generator version is named and left alone."""
    (tmp_path / "truth.json").write_text('{"version": 0}')
    with pytest.raises(samples.SamplesError, match=f"version 0, expected {samples.GENERATOR_VERSION}"):
        samples.generate(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["truth.json"]


@pytest.mark.engine
def test_set_is_whole_and_small(folder: Path, known: dict[str, Any]) -> None:
    """The folder holds every file of the truth, the listed sidecars, truth.json and nothing else, in at most 25 MB."""
    expected = {*known, "truth.json", *(f"{name}.json" for name in samples.sidecars())}
    assert {p.name for p in folder.iterdir()} == expected
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 25_000_000
    assert (folder / "truth.json").read_bytes() == samples._json(samples.truth())


@pytest.mark.engine
def test_second_run_does_nothing(folder: Path) -> None:
    """Generating into a complete folder writes no file and reports none."""
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    made: list[str] = []
    assert samples.generate(folder, made.append) == folder / "truth.json"
    assert made == [] and {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.engine
def test_lost_files_are_written_again(folder: Path) -> None:
    """Of a complete set that lost a film and a sidecar, both come back; nothing else is written but the film's copies. The set's other tests
    come after, so what came back is looked at as all is."""
    film, sidecar = "tilt_up.mp4", f"{IMAGES[0].name}.json"
    family = [film, *(copy.name for copy in COPIES if copy.of == film)]
    before, fields = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}, (folder / sidecar).read_bytes()
    (folder / film).unlink()
    (folder / sidecar).unlink()
    made: list[str] = []
    samples.generate(folder, made.append)
    assert made == family and (folder / sidecar).read_bytes() == fields
    after = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert after.keys() == before.keys() and {name for name in after if after[name] != before[name]} == {*family, sidecar}


@pytest.mark.engine
def test_videos_are_what_the_truth_says(folder: Path, known: dict[str, Any]) -> None:
    """Every video has the stated size, turn, frames, duration and sound; every cut is at its time and seen; borders are black."""
    for name, truth in known.items():
        if truth["kind"] != "video":
            continue
        facts, times, shown = opened(folder / name)
        assert (shown[0].shape[1], shown[0].shape[0]) == (truth["width"], truth["height"]), name
        assert (facts["rotation"], len(times), facts["audio"]) == (truth["rotation"], truth["n_frames"], int(truth["has_audio"])), name
        length_us = facts["length_us"] if facts["duration"] is None else round(facts["duration"] * facts["time_base"] * 1_000_000)
        assert abs(length_us - truth["duration_us"]) <= 1000, name
        assert (len({b - a for a, b in pairwise(times)}) > 3) == truth["vfr"], name
        for cut in truth["cuts"]:
            assert times[cut["frame"]] == cut["time_us"], name
            a, b = cut["start_frame"] - 1, cut["frame"]
            assert np.abs(shown[a].astype(int) - shown[b]).mean() > 25, (name, cut)
        if truth["border"]:
            b = truth["border"]
            inner = shown[60][b["top"] : truth["height"] - b["bottom"], b["left"] : truth["width"] - b["right"]]
            assert shown[60].sum() - inner.sum() < 0.01 * shown[60].sum(), name


@pytest.mark.engine
def test_moving_videos_move_and_static_ones_do_not(folder: Path, known: dict[str, Any]) -> None:
    """FFmpeg's own motion score is above 2 inside every moving film and below 1 in every standing one."""
    import re
    import subprocess

    import imageio_ffmpeg

    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    if "vmafmotion" not in subprocess.run([ffmpeg, "-hide_banner", "-filters"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("this FFmpeg has no vmafmotion filter")
    for name, truth in known.items():
        if truth["kind"] == "video" and not truth["exact_copy_of"]:
            command = [ffmpeg, "-hide_banner", "-nostdin", "-i", str(folder / name), "-an", "-vf", "vmafmotion", "-f", "null", "-"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
            score = float(re.findall(r"VMAF Motion avg: ([\d.]+)", said)[0])
            assert score < 1 if truth["static"] else score > 2, (name, score)


@pytest.mark.engine
def test_near_duplicates_hash_alike_and_nothing_else_does(folder: Path, known: dict[str, Any]) -> None:
    """PDQ of the middle frame of every shot: copies (but crops) within 31 bits of their film, all else at least 60 apart."""
    import pdqhash

    group = {name: i for i, names in enumerate(samples.truth()["duplicate_groups"]) for name in names}
    crops = {c.name for c in COPIES if c.edit == "crop"}
    seen: list[tuple[str, int, np.ndarray]] = []
    for name, truth in known.items():
        if truth["kind"] == "video":
            _, times, shown = opened(folder / name)
            for k, shot in enumerate(truth["shots"]):
                middle = int(np.searchsorted(times, (shot["start_us"] + shot["end_us"]) // 2))
                seen.append((name, k, pdqhash.compute(np.ascontiguousarray(shown[middle]))[0]))
    for i, (a, k, mine) in enumerate(seen):
        for b, j, theirs in seen[:i]:
            bits = int((mine != theirs).sum())
            if k == j and a in group and group[a] == group.get(b):
                assert bits <= 31 or {a, b} & crops, (a, b, k, bits)
            else:
                assert bits >= 60, (a, k, b, j, bits)


@pytest.mark.engine
def test_images_and_sounds_are_what_the_truth_says(folder: Path, known: dict[str, Any]) -> None:
    """Images open upright in the stated size, also under a video's name; sounds last as long as stated, silent tracks included."""
    from PIL import Image, ImageOps

    for name, truth in known.items():
        if truth["kind"] == "image":
            with Image.open(folder / name) as image:
                assert ImageOps.exif_transpose(image).size == (truth["width"], truth["height"]), name
        if truth["kind"] == "audio":
            with av.open(str(folder / name)) as container:
                count = sum(frame.samples for frame in container.decode(audio=0))
            # MP3 pads to whole frames of 1152 samples, the rest is exact
            assert abs(count - truth["duration_us"] * SAMPLE_RATE_HZ // 1_000_000) <= (3 * 1152 if name.endswith("mp3") else 0), name
    with av.open(str(folder / "zoom_out.mp4")) as container:
        assert all(not frame.to_ndarray().any() for frame in container.decode(audio=0))


@pytest.mark.engine
def test_broken_files_do_not_open(folder: Path, known: dict[str, Any]) -> None:
    """No broken file gives a single video frame."""
    for name in (n for n, truth in known.items() if truth["kind"] == "broken"):
        with pytest.raises(av.FFmpegError), av.open(str(folder / name)) as container:
            next(container.decode(video=0))


@pytest.mark.engine
def test_exact_copies_have_the_same_bytes(folder: Path, known: dict[str, Any]) -> None:
    """The one exact copy has its original's bytes, and no other two media files are equal."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).digest() for name in known}
    copies = {name: truth["exact_copy_of"] for name, truth in known.items() if truth["exact_copy_of"]}
    assert all(digests[name] == digests[of] for name, of in copies.items()) and len(copies) == 1
    assert len(set(digests.values())) == len(digests) - len(copies)
