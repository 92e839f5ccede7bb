"""The sample set: a small collection of video, image and sound whose every cut, border, caption and copy is known.

`generate` writes the files and, last of all, `truth.json`. The demo and many tests run on it: nothing is fetched, the pictures are
drawn or come from the scikit-image wheel. `truth.json` is the same byte for byte everywhere; the media bytes follow the encoders.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from curation import sample_writers as writers
from curation.pictures import DRAWN, Provenance, Scene, keyed
from curation.sample_catalogue import BROKEN, COPIES, FILMS, IMAGES, NO_SIDECAR, RESERVED, SOUNDS, TRUNCATED, Image
from curation.synthesis import Film, cuts, n_frames, ticks, time_base

GENERATOR_VERSION = 1
WORKERS = 2
"""Files made at a time: encoders and drawing release the interpreter, so threads use as many cores."""


class SamplesError(ValueError):
    """The folder holds a sample set of another version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of one file. Times in microseconds from the first frame; sizes in px as shown; None where it has no meaning."""

    kind: Literal["video", "image", "audio", "broken"]
    readable: bool
    width: int | None = None
    height: int | None = None
    fps: str | None = None
    vfr: bool = False
    rotation: int = 0
    n_frames: int | None = None
    duration_us: int | None = None
    cuts: tuple[dict[str, int | str], ...] = ()
    shots: tuple[dict[str, int | str], ...] = ()
    text: bool = False
    text_spans: tuple[dict[str, int | str], ...] = ()
    border: dict[str, int] | None = None
    static: bool = False
    camera: str | None = None
    slideshow: bool = False
    has_audio: bool = False
    sound: str | None = None
    licence: str | None = None
    training_reserved: bool = False
    exact_copy_of: str | None = None


def generate(folder: Path, on_file: Callable[[str], None] | None = None) -> Path:
    """The folder holds the whole sample set and `truth.json`, whose path is returned; of a set that was complete only lost files are written.

    `on_file` is called, in the calling thread, with the name of each media file as it is finished.
    Raises `SamplesError` where the folder holds a set of another version.
    """
    done = folder / "truth.json"
    if done.exists():
        found = json.loads(done.read_text()).get("version")
        if found != GENERATOR_VERSION:
            raise SamplesError(f"{done}: samples of version {found}, expected {GENERATOR_VERSION}; give an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    # longest work first, so that no thread is left alone with a long film at the end
    tasks = [_film_task(folder, film) for film in sorted(FILMS, key=_cost, reverse=True)] + [_small_task(folder)]
    if done.exists():
        tasks = [task for task in tasks if not _all_there(folder, task.names)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for finished in as_completed(written := {pool.submit(task.write): task.names for task in tasks}):
            finished.result()
            for name in written[finished]:
                if on_file:
                    on_file(name)
    for name, fields in sidecars().items():
        if not (done.exists() and _all_there(folder, [f"{name}.json"])):
            writers.write_bytes(folder / f"{name}.json", _json(fields))
    if not done.exists():
        writers.write_bytes(done, _json(truth()))
    return done


def truth() -> dict[str, Any]:
    """What `truth.json` holds: {"version", "files": {name: fields of `Truth`}, "duplicate_groups": [[names]]}."""
    films = {film.name: film for film in FILMS}
    files = {film.name: _film_truth(film) for film in FILMS}
    files |= {copy.name: _copy_truth(copy, films[copy.of]) for copy in COPIES}
    files |= {image.name: _image_truth(image) for image in IMAGES}
    files |= {name: _sound_truth(name, sound, seconds) for name, sound, seconds in SOUNDS}
    files |= {name: Truth(kind="broken", readable=False) for name in BROKEN}
    groups = [[of, *(c.name for c in COPIES if c.of == of)] for of in dict.fromkeys(c.of for c in COPIES)]
    return {
        "version": GENERATOR_VERSION,
        "files": {name: asdict(known) for name, known in sorted(files.items())},
        "duplicate_groups": sorted(groups),
    }


def sidecars() -> dict[str, dict[str, str]]:
    """The sidecar of every file that has one: licence, provenance, caption and reservation, only what is known."""
    films = {film.name: film for film in FILMS}
    shown: dict[str, list[Scene]] = {film.name: [shot.scene for shot in film.shots] for film in FILMS}
    shown |= {copy.name: shown[copy.of] for copy in COPIES} | {image.name: [image.scene] for image in IMAGES}
    shown |= {name: [] for name, _, _ in SOUNDS}
    captions = {name: film.caption for name, film in films.items()} | {image.name: image.caption for image in IMAGES}
    return {
        name: _sidecar(name, [scene.provenance for scene in scenes] or [DRAWN], captions.get(name, ""))
        for name, scenes in sorted(shown.items())
        if name not in NO_SIDECAR
    }


def _sidecar(name: str, origins: list[Provenance], caption: str) -> dict[str, str]:
    licences = sorted({o.licence for o in origins if o.licence})
    urls = [o.source_url for o in origins if o.source_url]
    fields = {
        # a licence of the whole is known only where that of every part is
        "licence": " AND ".join(licences) if all(o.licence for o in origins) else "",
        "source_url": urls[0] if urls else "",
        "title": Path(name).stem.replace("_", " "),
        "creator": "; ".join(dict.fromkeys(o.creator for o in origins if o.creator)),
        "consent": "" if any(o.people for o in origins) else "not-needed",
        "supplier": "scikit-image" if urls else "dailies",
        "caption": caption,
        "training": "reserved" if name in RESERVED else "allowed",
    }
    return {key: value for key, value in fields.items() if value}


def _film_truth(film: Film) -> Truth:
    times = _times_us(film)
    cameras = {shot.camera for shot in film.shots}
    bounds = [0, *(cut.frame for cut in cuts(film)), n_frames(film)]
    return Truth(
        kind="video",
        readable=True,
        width=film.width,
        height=film.height,
        fps=None if film.vfr else f"{film.fps.numerator}/{film.fps.denominator}",
        vfr=film.vfr,
        rotation=film.rotation,
        n_frames=n_frames(film),
        duration_us=times[-1],
        cuts=tuple({"frame": c.frame, "time_us": times[c.frame], "kind": c.kind, "start_frame": c.start_frame} for c in cuts(film)),
        shots=tuple(
            {"start_us": times[a], "end_us": times[b], "camera": shot.camera}
            for shot, a, b in zip(film.shots, bounds, bounds[1:], strict=False)
        ),
        text=bool(film.words),
        text_spans=tuple({"start_us": times[w.start_frame], "end_us": times[w.end_frame], "text": w.text} for w in film.words),
        border=asdict(film.bars) if film.bars else None,
        static=cameras == {"static_shot"},
        camera=cameras.pop() if len(cameras) == 1 else None,
        slideshow=film.slideshow,
        has_audio=bool(film.sound),
        sound=film.sound or None,
        licence=_licence(film.name),
        training_reserved=film.name in RESERVED,
    )


def _times_us(film: Film) -> list[int]:
    """When each frame starts, and last when the film ends, as the container stores it."""
    # WebM counts milliseconds
    step = Fraction(1, 1000) if film.name.endswith(".webm") else Fraction(1, 1_000_000)
    return [_nearest(t * time_base(film) / step) * int(step * 1_000_000) for t in ticks(film)]


def _nearest(value: Fraction) -> int:
    """The nearest integer, halves away from zero as containers round."""
    return int(value + Fraction(1, 2))


def _copy_truth(copy: writers.Copy, film: Film) -> Truth:
    known = asdict(_film_truth(film))
    exact = copy.edit == "exact"
    width, height = writers.copy_size(copy, film.width, film.height)
    known |= {"width": width, "height": height, "licence": _licence(copy.name), "training_reserved": copy.name in RESERVED}
    known |= {"exact_copy_of": film.name} if exact else {"has_audio": False, "sound": None}
    return Truth(**known)


def _image_truth(image: Image) -> Truth:
    return Truth(
        kind="image",
        readable=True,
        width=image.width,
        height=image.height,
        rotation=image.rotation,
        n_frames=1,
        licence=_licence(image.name),
        training_reserved=image.name in RESERVED,
    )


def _sound_truth(name: str, sound: str, seconds: float) -> Truth:
    return Truth(
        kind="audio",
        readable=True,
        duration_us=round(seconds * 1_000_000),
        has_audio=True,
        sound=sound,
        licence=_licence(name),
        training_reserved=name in RESERVED,
    )


def _licence(name: str) -> str | None:
    return sidecars().get(name, {}).get("licence")


def _cost(film: Film) -> int:
    return n_frames(film) * film.width * film.height * (1 + sum(c.of == film.name for c in COPIES))


@dataclass(frozen=True, slots=True)
class _Task:
    """Files that are written together, by a call."""

    names: tuple[str, ...]
    write: Callable[[], None]


def _all_there(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _film_task(folder: Path, film: Film) -> _Task:
    """The film and its copies."""
    copies = [copy for copy in COPIES if copy.of == film.name]

    def write() -> None:
        path = folder / film.name
        writers.write_film(path, film)
        for copy in copies:
            writers.write_copy(folder / copy.name, copy, film, path)

    return _Task((film.name, *(copy.name for copy in copies)), write)


def _small_task(folder: Path) -> _Task:
    """Images, sounds and broken files."""

    def write() -> None:
        for image in IMAGES:
            writers.write_image(folder / image.name, image.scene, image.width, image.height, image.rotation)
        for name, sound, seconds in SOUNDS:
            writers.write_sound(folder / name, sound, seconds)
        writers.write_bytes(folder / "empty.mp4", b"")
        writers.write_bytes(folder / "notes.mp4", b"These are notes and not a film.\n" * 40)
        writers.write_bytes(folder / "noise.jpg", keyed("noise.jpg").bytes(4096))
        with TemporaryDirectory() as apart:  # in its place, a kill would leave it whole, and it would count as there
            path = Path(apart) / TRUNCATED.name
            writers.write_film(path, TRUNCATED)
            whole = path.read_bytes()
        # the index (moov) is at the end of the file, so what is left has none
        writers.write_bytes(folder / TRUNCATED.name, whole[: len(whole) * 6 // 10])

    return _Task((*(i.name for i in IMAGES), *(name for name, _, _ in SOUNDS), *BROKEN), write)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()
