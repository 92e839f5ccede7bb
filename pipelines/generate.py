"""`dailies generate`: prompts to films in a folder, one mp4 a prompt and a page that shows them. The same command again makes what is missing."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from manifests.ids import digest
from manifests.signing import SigningError
from pipelines.film_page import FRAMES, Group, Shown, is_page, loudness_picture, strip, write_page
from pipelines.rewrite import RewriteConfig, rewritten

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    from training.credentials import Credentials
    from training.generation import MoviePipeline
    from training.sound_generation import Extension

PAGE, CAPTIONS = "index.html", "rewritten.json"
_COLUMNS = ("prompt", "video_prompt", "caption", "text")
_SOUNDS = ("audio_prompt", "music_prompt")


class PromptError(ValueError):
    """A prompt file cannot be read; the message names file and place."""


class OutError(ValueError):
    """What is made cannot lie at OUT, or something that was not made here would be lost; the message names it and what helps."""


class Prompt(NamedTuple):
    """What is to be seen, and what is to be heard where that is said apart; None for the same."""

    text: str
    sound: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How the films of a command are made. `wishes` are fields of `training.generation.Request`, the same for all but for prompt, seed and,
    where it is None, the sound's text."""

    wishes: dict[str, Any]
    stage: str | None = None
    seed: int = 0
    count: int = 1
    """Films of each prompt, each from a seed of its own."""
    rewriter: RewriteConfig | None = None
    overwrite: bool = False
    """What lies at OUT may be lost, whoever made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One film of the command."""

    path: Path
    prompt: str
    read_as: str
    seed: int
    new: bool
    made_from: dict[str, Any]


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a text file (one a line), a .jsonl or a .csv, as benchmarks give them: what is to be seen in the field prompt,
    video_prompt, caption or text, what is to be heard in audio_prompt and music_prompt (Movie Gen Audio Bench).

    PromptError when there is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path}: expected a file of prompts, found {error}") from error
    if path.suffix == ".jsonl":
        found = [_prompt(_object(line, f"{path}:{i}"), f"{path}:{i}") for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    elif path.suffix == ".csv":
        found = [_prompt(row, f"{path}:{i}") for i, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)]
    else:
        found = [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
    if not found:
        raise PromptError(f"{path}: expected at least one prompt, found none")
    return found


def generate(
    pipeline: "MoviePipeline",
    prompts: Sequence[Prompt],
    out: Path,
    wanted: Wanted,
    signer: "CryptoSigner | None" = None,
    credentials: "Credentials | None" = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Made]:
    """The films of all prompts are in the folder `out` (or one is the file `out`), and the page beside them shows them.

    A film that is there and says that it was made from the same models and the same request is left as it is. OutError where anything else
    would be lost: a film without a note, what the films are made from, a page of others.
    """
    single = out.suffix == ".mp4"
    if not single and out.exists() and not out.is_dir():
        raise OutError(f"{out}: expected a folder, or the name of an mp4, found a file")
    page = out.with_suffix(".html") if single else out / PAGE
    seeds = [wanted.seed + i for i in range(wanted.count)]
    paths = [
        [out if single else out / f"{i:04d}-{digest('film/v1', p.text)[:8]}-{seed}.mp4" for seed in seeds] for i, p in enumerate(prompts)
    ]
    inputs = [Path(value) for name in ("photo", "clip") if (value := wanted.wishes.get(name))]
    check_out([path for of_prompt in paths for path in of_prompt], page, inputs, wanted.overwrite, named_here=not single)
    made: list[Made] = []
    captions = out.with_suffix(f".{CAPTIONS}") if single else out / CAPTIONS
    for prompt, of_prompt in zip(prompts, paths, strict=True):
        read_as = rewritten(prompt.text, wanted.rewriter, captions) if wanted.rewriter else prompt.text
        for path, seed in zip(of_prompt, seeds, strict=True):
            made.append(_film(pipeline, path, prompt, read_as, seed, wanted, signer, credentials, say))
    _page(made, page)
    return made


def check_out(films: Sequence[Path], page: Path, inputs: Sequence[Path], overwrite: bool, named_here: bool = False) -> None:
    """OutError where a film or the page would take the place of an input, or of what was not made here, and nobody asked for that.

    `named_here`: the films' names were made up here, so what bears one was made here too, if only the half of it.
    """
    from training.film_note import has_note

    for path in (p for p in (*films, page) if p.exists()):
        if path.is_dir():
            raise OutError(f"{path}: expected the name of a file, found a folder")
        if overwrite:
            continue
        if any(i.exists() and path.samefile(i) for i in inputs):
            raise OutError(f"{path}: expected another file than those given, found one of them, which would be lost: choose another --out")
        if not (is_page(path) if path == page else named_here or has_note(path)):
            what = "a page" if path == page else "a film with a note"
            raise OutError(
                f"{path}: expected no file, or {what} of `dailies generate`, found another: choose another --out, or --overwrite"
            )


def soundtrack(
    pipeline: "MoviePipeline",
    film: Path,
    text: str,
    out: Path,
    seed: int,
    extension: "Extension" = "windows",
    signer: "CryptoSigner | None" = None,
    credentials: "Credentials | None" = None,
    overwrite: bool = False,
    solver: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Made:
    """`out` is the film with its pictures as they are and a sound made for them, as long as they last; and a page beside it. `solver` has the
    steps and the guidance of the sound, where it is not made as trained. One that is there and says that it was made from the same models
    and the same request is left as it is.

    OutError, or TrainingError where an mp4 cannot hold the pictures, before any sound is made.
    """
    from training.film import check_dubbing, dubbed, save_mp4

    if out.suffix != ".mp4":
        raise OutError(f"{out}: soundtrack: expected the name of an mp4, found {'a folder' if out.is_dir() else 'another name'}")
    check_out([out], out.with_suffix(".html"), [film], overwrite)
    check_dubbing(film)
    wishes = {name: value for name, value in (solver or {}).items() if value is not None}
    sha256 = hashlib.sha256(film.read_bytes()).hexdigest()
    made_from = {
        "request": {"prompt": text, "seed": seed, "extension": extension, "film": sha256, **wishes},
        "models": pipeline.sound_notes,
    }
    new = not _is_there(out, made_from, signer, credentials, say)
    if new:
        sound = pipeline.soundtrack(film, text, seed, extension, **wishes)
        save_mp4(dubbed(film, sound), out, made_from, signer, credentials, film)
    made = Made(path=out, prompt=text, read_as=text, seed=seed, new=new, made_from=made_from)
    _page([made], out.with_suffix(".html"))
    return made


def _film(
    pipeline: "MoviePipeline",
    path: Path,
    prompt: Prompt,
    read_as: str,
    seed: int,
    wanted: Wanted,
    signer: "CryptoSigner | None",
    credentials: "Credentials | None",
    say: Callable[[str], None],
) -> Made:
    from training.generation import Request

    wishes = wanted.wishes if wanted.wishes.get("sound_text") is not None else wanted.wishes | {"sound_text": prompt.sound}
    request = Request(prompt=read_as, seed=seed, **wishes)
    beside: dict[str, Any] = {}
    if wanted.rewriter:
        beside = {"rewritten": {"prompt": prompt.text, "address": wanted.rewriter.base_url, "model": wanted.rewriter.model}}
    wished = {"request": request.note(), "models": pipeline.notes(request, wanted.stage), **beside}
    made = Made(path=path, prompt=prompt.text, read_as=read_as, seed=seed, new=False, made_from=wished)
    if _is_there(path, wished, signer, credentials, say):
        return made
    film = pipeline(read_as, stage=wanted.stage, on_step=say, seed=seed, **wishes)
    film = replace(film, made_from=film.made_from | beside)
    film.save(path, signer, credentials, Path(request.clip) if request.clip else None)
    return replace(made, new=True, made_from=film.made_from)


def _is_there(
    path: Path,
    wished: dict[str, Any],
    signer: "CryptoSigner | None",
    credentials: "Credentials | None",
    say: Callable[[str], None],
) -> bool:
    """Whether the film at the path says that it was made as wished, signed and with credentials where they are wished for."""
    from training.film_note import read_note

    if not path.exists():
        return False
    try:
        note = read_note(path, signer.public_key if signer else None)
    except SigningError:  # another film, a part of one, or one that is not signed: made anew
        return False
    if note != json.loads(json.dumps(wished)) or not (credentials is None or credentials.lie_in(path, note)):
        return False
    say(f"{path}: there already")
    return True


def _page(made: Sequence[Made], path: Path) -> None:
    groups: dict[str, list[Shown]] = {}
    said = {m.prompt: m.read_as for m in made}
    for m in made:
        groups.setdefault(m.prompt, []).append(shown(m.path, m.path.name, m.made_from))
    listed = [Group(prompt=p, films=tuple(films), read_as=said[p] if said[p] != p else "") for p, films in groups.items()]
    count = f"{len(made)} film{'s' if len(made) != 1 else ''}"
    write_page(path, "Generated films", f"{count}. Each carries a note of the models it was made from.", listed)


def shown(path: Path, name: str, made_from: dict[str, Any], measures: dict[str, float] | None = None) -> Shown:
    """What the page shows of a film file."""
    from training.film import preview

    film = preview(path, FRAMES)
    facts = f"{film.frames.shape[2]} x {film.frames.shape[1]}, {film.n_frames} frames at {float(film.fps):g} a second"
    request = made_from.get("request", {})
    facts += f", seed {request['seed']}" if "seed" in request else ""
    sound = "" if film.peaks is None else loudness_picture(film.peaks)
    models = made_from.get("models", {})
    return Shown(name=name, file=path.name, strip=strip(film.frames), sound=sound, facts=facts, measures=measures or {}, models=models)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where}: expected a JSON object, found {error}") from error
    if not isinstance(value, dict):
        raise PromptError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    said = next((value.strip() for name in _COLUMNS if isinstance(value := row.get(name), str) and value.strip()), None)
    if said is None:
        raise PromptError(f"{where}: expected a field {', '.join(_COLUMNS)}, found {sorted(k for k in row if k)}")
    heard = []
    for name in _SOUNDS:
        if not isinstance(value := row.get(name) or "", str):
            raise PromptError(f"{where}: expected text in {name}, found {type(value).__name__}")
        if words := value.strip():
            heard.append(words if words[-1] in ".!?…" else f"{words}.")
    return Prompt(said, " ".join(heard) or None)
