"""The commands that use what was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipelines.console import AsJson, errors, print_table

app = typer.Typer()

_APART = (
    (
        "soundtrack",
        ("edit", "photo", "stage", "count", "aspect", "frames", "fps", "sound", "sound_text", "rewriter"),
        "its pictures stay as they are, and the prompt is what is to be heard",
    ),
    (
        "edit",
        ("photo", "aspect", "fps", "sound_text", "rewriter"),
        "the clip keeps its shape, rate and sound, and the prompt is an instruction",
    ),
    ("face", ("face_weights",), "the one says where the face is, the other looks for it"),
)
_TOGETHER = (
    ("segments", "soundtrack"),
    ("face", "photo"),
    ("face_weights", "photo"),
    ("face_layout", "face_weights"),
    ("rewriter_model", "rewriter"),
)
"""Options that make no sense beside each other, and those that make none without another: said, and not passed over."""


@app.command()
def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What is to be seen; or --prompts.")] = None,
    models: Annotated[
        list[Path] | None, typer.Option("--models", help="Folder of a curriculum, run or export; may be given more than once.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="FILE.mp4, or a folder for several films.")] = Path("film.mp4"),
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="A file of prompts: one a line, .jsonl or .csv (Movie Gen Bench's files as they are, of video and of audio)."
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Stage whose weights are used; the last text-to-video stage if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Keys every draw: the same seed, the same film.")] = 0,
    count: Annotated[int, typer.Option("--count", help="Films of each prompt, from one seed after the other.", min=1)] = 1,
    aspect: Annotated[
        Literal["16:9", "9:16", "1:1", "4:3", "3:4"], typer.Option("--aspect", help="Aspect ratio, at the area trained on.")
    ] = "1:1",
    frames: Annotated[int | None, typer.Option("--frames", help="Number of frames; as trained if not given.", min=1)] = None,
    fps: Annotated[int, typer.Option("--fps", help="Frames a second; the prompt says it to the model.", min=1)] = 24,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Steps of the solver of every stage: pictures, upsampler, sound; as trained if not given.", min=2),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", help="Guidance of the pictures by the prompt, with --soundtrack of the sound; 1 is none; as trained if not given."
        ),
    ] = None,
    upsample: Annotated[bool, typer.Option(help="Make the film larger with the upsampler, where one was trained.")] = True,
    sound: Annotated[bool, typer.Option(help="With sound, where a generator of sound was trained.")] = True,
    sound_text: Annotated[
        str | None, typer.Option("--sound-text", help="What is to be heard; what the prompt file says of it, or the prompt, if not given.")
    ] = None,
    soundtrack: Annotated[
        Path | None,
        typer.Option("--soundtrack", help="An mp4 of any length whose pictures stay and which gets a sound; the prompt says which."),
    ] = None,
    segments: Annotated[
        bool,
        typer.Option("--segments", help="A long soundtrack piece by piece, each going on from the last, and not in windows made together."),
    ] = False,
    photo: Annotated[
        Path | None,
        typer.Option(
            "--photo", help="A picture of a person's face alone, who is then in the film (a stage of personalisation); or with --face…"
        ),
    ] = None,
    face: Annotated[str | None, typer.Option("--face", help="Where the face is in the photo: x,y,width,height in px.")] = None,
    face_weights: Annotated[
        str | None,
        typer.Option("--face-weights", help="ONNX file of a face detector, as curation's people.faces.weights; it finds the face."),
    ] = None,
    face_layout: Annotated[
        Literal["yunet", "scrfd", "centerface"], typer.Option("--face-layout", help="Which detector it is, as people.faces.layout.")
    ] = "yunet",
    edit: Annotated[
        Path | None,
        typer.Option("--edit", help='An mp4 to edit, its first frames if it is long; the prompt is the instruction, e.g. "Make it grey."'),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Ed25519 key of `dailies keygen`: the note in the film is signed with it.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="Certificate chain (PEM) for Content Credentials.")] = None,
    certificate_key: Annotated[Path | None, typer.Option("--certificate-key", help="Its private key (PEM).")] = None,
    rewriter: Annotated[
        str | None,
        typer.Option(
            "--rewriter",
            help="OpenAI-compatible address of a model that rewrites prompts, e.g. http://localhost:8000/v1; its captions are kept beside the films.",
        ),
    ] = None,
    rewriter_model: Annotated[str, typer.Option("--rewriter-model", help="Its name there.")] = "default",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what lies at --out even where it was not made by this command, or is the film given."),
    ] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 …; a GPU where there is one if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make films of prompts with what was trained: text, latents, decoding, upsampler, one mp4, and a page that shows it.

    Weights are the averaged ones (EMA) of the exports. Every film carries a note of models, seed and settings; `dailies verify FILM` checks
    it. The same command again makes only what is missing.

      dailies generate "A coin turns on a table." --models curriculum --out coin.mp4 --aspect 16:9

      dailies generate "Make it black and white." --edit coin.mp4 --models curriculum --out grey.mp4

      dailies generate "Rain and distant thunder." --soundtrack walk.mp4 --models curriculum --out walk-with-sound.mp4

      dailies generate --prompts MovieGenVideoBench.txt --models curriculum --out bench --seed 1
    """
    from manifests.signing import SigningError, load_signer
    from pipelines.generate import OutError, Prompt, PromptError, Wanted, read_prompts
    from pipelines.generate import generate as run
    from pipelines.generate import soundtrack as dub
    from pipelines.photo import PhotoError
    from pipelines.progress import Progress
    from pipelines.rewrite import RewriteConfig, RewriteError
    from training.credentials import Credentials
    from training.errors import TrainingError

    if (prompt is None) == (prompts is None) or not models:
        raise typer.BadParameter("expected a PROMPT or --prompts FILE, and --models FOLDER")
    if (certificate is None) != (certificate_key is None):
        raise typer.BadParameter("expected --certificate and --certificate-key together")
    _check_options(context)
    with errors(TrainingError, SigningError, PromptError, RewriteError, PhotoError, OutError):
        listed = read_prompts(prompts) if prompts is not None else [Prompt(prompt or "")]
        if soundtrack is not None and len(listed) > 1:
            raise PromptError(f"--soundtrack and --prompts: expected one prompt for one film, found {len(listed)} in {prompts}")
        if out.suffix == ".mp4" and len(listed) * count > 1:
            raise PromptError(f"{out}: expected a folder for {len(listed) * count} films, found the name of one")
        wishes: dict[str, Any] = {
            "n_frames": frames,
            "aspect": aspect,
            "fps": fps,
            "steps": steps,
            "guidance": guidance,
            "upsample": upsample,
        }
        wishes |= {"sound": sound, "sound_text": sound_text, "photo": photo and str(photo), "clip": edit and str(edit)}
        rewriting = RewriteConfig(base_url=rewriter, model=rewriter_model) if rewriter else None
        signer = load_signer(sign) if sign else None
        credentials = Credentials(chain=certificate, key=certificate_key) if certificate and certificate_key else None
        progress = Progress(quiet=as_json)
        wishes["face"] = _face_of(photo, face, face_weights, face_layout, progress.say) if photo else None
        wanted = Wanted(wishes=wishes, stage=stage, seed=seed, count=count, rewriter=rewriting, overwrite=overwrite)
        pipeline = load_pipeline(models, device)
        if soundtrack is not None:
            extension: Literal["segments", "windows"] = "segments" if segments else "windows"
            text = listed[0].sound or listed[0].text
            solver = {"steps": steps, "guidance": guidance}
            made = [dub(pipeline, soundtrack, text, out, seed, extension, signer, credentials, overwrite, solver, progress.say)]
        else:
            made = run(pipeline, listed, out, wanted, signer, credentials, progress.say)
    if as_json:
        print(json.dumps([{"film": str(m.path), "prompt": m.prompt, "seed": m.seed, "new": m.new, **m.made_from} for m in made]))
    else:
        for m in made:
            print(f"{m.path}  {'' if m.new else '(there already)'}")


def _check_options(context: typer.Context) -> None:
    """BadParameter where an option that was given would have no effect beside, or without, another."""
    given = {name for name in context.params if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"}

    def shown(name: str) -> str:
        return ("--no-" if context.params[name] is False else "--") + name.replace("_", "-")

    for option, others, why in _APART:
        for other in others:
            if {option, other} <= given:
                raise typer.BadParameter(f"expected {shown(option)} without {shown(other)}: {why}")
    for option, needed in _TOGETHER:
        if option in given and needed not in given:
            raise typer.BadParameter(f"expected {shown(option)} with {shown(needed)}: alone it says nothing")
    if "sound_text" in given and not context.params["sound"]:
        raise typer.BadParameter("expected --sound-text without --no-sound: nothing is to be heard")


def _face_of(
    photo: Path, face: str | None, weights: str | None, layout: Any, say: Callable[[str], None]
) -> tuple[int, int, int, int] | None:
    """Where the face is in the photo: as said, as a detector finds it, or None."""
    from curation.adapters.face_detector import FaceDetectorConfig
    from pipelines.photo import find_face, parse_face

    if face is not None:
        return parse_face(face)
    if weights is None:
        return None
    box, count = find_face(photo, FaceDetectorConfig(weights=weights, layout=layout))
    say(f"{photo}: {'a face' if count == 1 else f'{count} faces, of which the largest is shown,'} at {','.join(map(str, box))}")
    return box


@app.command()
def evaluate(
    models: Annotated[list[Path], typer.Argument(help="Folders of curricula, runs or exports; each is a column of the page.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the page, evaluation.json and the films.")],
    data: Annotated[Path | None, typer.Option("--data", help="Dataset whose held-out clips are measured on.")] = None,
    release: Annotated[
        str, typer.Option("--release", help="Name of a release of the dataset to measure on; the newest version if not given.")
    ] = "",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file of prompts: one a line, .jsonl or .csv (MovieGenBench's files as they are).")
    ] = None,
    first: Annotated[int | None, typer.Option("--first", help="Only so many of the prompts.", min=1)] = None,
    clips: Annotated[int, typer.Option("--clips", help="Held-out videos, pictures and sounds of each model.", min=1)] = 16,
    lpips: Annotated[str, typer.Option("--lpips", help="torchvision's VGG-16 weights, for LPIPS.")] = "",
    clip: Annotated[str, typer.Option("--clip", help="Folder of an open_clip model, for text agreement.")] = "",
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of the solver; as trained if not given.", min=2)] = None,
    upsample: Annotated[bool, typer.Option(help="Make the films larger with the upsampler, where one was trained.")] = True,
    seed: Annotated[int, typer.Option("--seed", help="Keys every draw.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 …; a GPU where there is one if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare trained models: numbers on held-out clips, films of the same prompts side by side, one page.

    dailies evaluate curriculum --data dataset --prompts prompts.txt --out evaluation

    dailies evaluate run-a run-b --data dataset --release v1 --out compared
    """
    from dataclasses import asdict

    from pipelines.evaluate import PAGE
    from pipelines.evaluate import evaluate as run
    from pipelines.evaluate_models import EvaluateConfig
    from pipelines.generate import OutError, PromptError, read_prompts
    from pipelines.progress import Progress
    from training.errors import TrainingError

    if (data is None and prompts is None) or (release and data is None):
        raise typer.BadParameter("expected --data DATASET, --prompts FILE, or both; --release is one of --data")
    with errors(TrainingError, PromptError, OutError):
        listed = read_prompts(prompts)[:first] if prompts is not None else []
        config = EvaluateConfig(clips=clips, lpips=lpips, clip=clip, wishes={"steps": steps, "upsample": upsample}, seed=seed)
        progress = Progress(quiet=as_json)
        found = run(models, data, listed, out, config, lambda folders: load_pipeline(folders, device), progress.say, release)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    columns = found.columns
    names = list(dict.fromkeys(m.name for c in columns for m in c.measures))
    known = [{m.name: f"{m.value:.4g} (of {len(m.clips)}{_by_chance(m.chance)})" for m in c.measures} for c in columns]
    print_table(["measure", *(c.name for c in columns)], [[n, *(k.get(n, "") for k in known)] for n in names])
    for column in columns:
        for problem in column.problems:
            print(f"{column.name}: {problem}")
    print(f"\n{out / PAGE}")


def _by_chance(chance: float | None) -> str:
    return "" if chance is None else f", {chance:.2f} by chance"


def load_pipeline(models: list[Path], device: str | None):  # type: ignore[no-untyped-def]
    """The pipeline over the folders, on a GPU in bfloat16 where there is one, otherwise on the CPU in float32."""
    import torch

    from training.generation import MoviePipeline

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return MoviePipeline.from_folders(models, chosen, torch.float32 if chosen == "cpu" else torch.bfloat16)
