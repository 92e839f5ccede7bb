"""From exports to films: models are found by digest, every draw is keyed, and commands continue where they were."""

import dataclasses
import hashlib
import http.server
import json
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from typer.testing import CliRunner

from curation.faces import masked_face
from manifests.signing import generate_key
from pipelines.cli import app
from pipelines.generate import PromptError, read_prompts
from pipelines.rewrite import RewriteConfig, RewriteError, rewrite
from tests.media_makers import write_video
from tests.picture_nets import painted, yunet
from tests.unit.test_film import certificate
from tests.unit.test_shown import write_prores
from training.credentials import Credentials
from training.data.text_cache import TextCache
from training.degradation import UpsampleConfig
from training.edits import TASKS, EditConfig
from training.errors import TrainingError
from training.exports import find_exports
from training.film import Film, read_film
from training.film_note import read_note
from training.flow import SamplerConfig
from training.generation import ASPECTS, MoviePipeline, Request
from training.identity import PersonalConfig
from training.latents import LatentScale
from training.models import layers
from training.models.autoencoder import TAE, TAEConfig
from training.models.codec import CodecConfig
from training.models.sound import SoundConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import Transformer, TransformerConfig, initialise
from training.models.vision import PersonalTransformer, TowerConfig, initialise_tower
from training.models.watching import WatchConfig, load_watcher
from training.portraits import open_photo, portrait
from training.sound_latents import SoundCodec
from training.tasks.codec import CodecTask
from training.tasks.sound import SoundTask
from training.tasks.sound_config import CodecStage, SoundStage

MODEL = TransformerConfig(layers=1, width=32, ffn=64, heads=2, latent_channels=4, max_t=2, max_h=2, max_w=2, bytes_width=16)

TEXT = TextConfig(bytes_width=16, bytes_tokens=8)


def write_export(folder: Path, stage: str, state: dict[str, Any], described: dict[str, Any]) -> str:
    """An export as a finished run leaves it; gives the digest of its weights."""
    data = save({k: v.contiguous() for k, v in state.items()})
    sha256 = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"stage": stage, "step": 7, "sha256": sha256, **described}))
    return sha256


def autoencoder(folder: Path, temporal: bool) -> str:
    """The export of a small autoencoder with keyed weights."""
    config = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2, temporal=temporal)
    tae = TAE(config)
    layers.initialise(tae, 0)
    return write_export(folder, "tae" if temporal else "image_ae", tae.state_dict(), {"model": dataclasses.asdict(config)})


def generator(folder: Path, stage: str, tae: str, model: TransformerConfig, n_frames: int, **kind: Any) -> str:
    """The export of a small generator whose output is not zero."""
    if "personal" in kind:
        transformer = PersonalTransformer(model, TowerConfig(**kind["personal"]["tower"]), train_tower=False)
        initialise_tower(transformer.tower, 0)
    else:
        transformer = Transformer(model)
    initialise(transformer, len(stage))
    transformer.output.linear.weight.data.normal_(0, 0.1)
    if model.context_channels:
        transformer.context.weight.data.normal_(0, 0.1)
    described = {
        "model": dataclasses.asdict(model),
        "text": dataclasses.asdict(TEXT),
        "sampler": dataclasses.asdict(SamplerConfig(steps=2, linear_steps=4, guidance=2.0)),
        "text_keys": {e.name: e.key for e in load_encoders(TEXT)},
        "latents": {"mean": [0.0] * 4, "std": [1.0] * 4, "tae_sha256": tae},
        "trained_on": {"size_px": 32, "n_frames": n_frames, "shapes": "square"},
        **kind,
    }
    return write_export(folder, stage, transformer.state_dict(), described)


def hearing(root: Path) -> None:
    """Exports of a small codec and of a generator of sound on it, whose output is not zero."""
    sizes = CodecConfig(
        encoder_widths=(2, 8, 8), decoder_widths=(8, 8, 2), strides=(48, 40), dilations=(1,), hidden_width=8, latent_channels=4
    )
    codec = CodecTask("codec", CodecStage(model=sizes), 0, 8)
    network = codec.module()
    sha256 = write_export(root / "codec/export", "codec", network.state_dict(), codec.description())
    stage = SoundStage(
        model=SoundConfig(layers=1, width=16, ffn=32, heads=2, text_width=16, video_width=8, latent_channels=4),
        text=TextConfig(bytes_width=16, bytes_tokens=8),
        watch=WatchConfig(grid=2),
        sampler=SamplerConfig(solver="midpoint", steps=2, linear_steps=4, guidance=2.0),
    )
    scale = LatentScale(mean=(0.0,) * 4, std=(1.0,) * 4)
    texts = TextCache(load_encoders(stage.text))
    task = SoundTask("audio", stage, 1, 8, SoundCodec(network, scale, sha256), load_watcher(stage.watch), {}, texts)
    model = task.module()
    model.output.weight.data.normal_(0, 0.5)
    described = task.description() | {"trained_on": {"size_px": 16, "n_frames": 4}}
    write_export(root / "audio/export", "audio", model.state_dict(), described)


@pytest.fixture(scope="module")
def curriculum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curriculum's folder: two autoencoders, two text-to-video stages, the later an average of two runs, and an upsampler."""
    root = tmp_path_factory.mktemp("curriculum")
    stages = ("image_ae", "tae", "t2v_768", "video_sft", "upsampler", "personal_1", "edit_1", "codec", "audio")
    (root / "curriculum.json").write_text(json.dumps({"curriculum": {"stages": {name: {} for name in stages}}}))
    images, tae = autoencoder(root / "image_ae/export", False), autoencoder(root / "tae/export", True)
    generator(root / "t2v_768/export", "t2v_768", tae, MODEL, 16)
    for run in ("run-0/export", "run-1/export"):
        generator(root / "video_sft" / run, "video_sft", tae, dataclasses.replace(MODEL, ffn=48 + 16 * ("1" in run)), 16)
    generator(root / "video_sft/average", "video_sft", tae, MODEL, 16)
    editor = dataclasses.replace(MODEL, context_channels=4, tasks=len(TASKS))
    generator(root / "edit_1/export", "edit_1", tae, editor, 16, edit=dataclasses.asdict(EditConfig()))
    tower = TowerConfig(image_px=32, patch_px=16, width=24, layers=1, heads=2, mlp=32, side=1)
    person = dataclasses.replace(MODEL, identity_width=24)
    generator(root / "personal_1/export", "personal_1", tae, person, 16, personal=dataclasses.asdict(PersonalConfig(tower=tower)))
    upsample = dataclasses.asdict(UpsampleConfig())
    generator(root / "upsampler/export", "upsampler", images, dataclasses.replace(MODEL, context_channels=4, max_t=6), 6, upsample=upsample)
    hearing(root)
    return root


def test_exports_are_found_in_a_curriculums_order(curriculum: Path) -> None:
    """Stages come in the curriculum's order, of a stage's runs only the average; a folder that is an export is found alone."""
    found = find_exports([curriculum])
    assert [e.stage for e in found] == ["image_ae", "tae", "t2v_768", "video_sft", "upsampler", "personal_1", "edit_1", "codec", "audio"]
    assert found[3].folder.name == "average"
    assert [e.stage for e in find_exports([curriculum / "tae"])] == ["tae"]
    with pytest.raises(TrainingError, match="found none"):
        find_exports([curriculum / "tae" / "nothing"])


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_is_made_at_the_area_trained_on(curriculum: Path, aspect: str) -> None:
    """Sides are multiples of 16 about a square of 32 px, of 16 frames, finite, and twice that through the upsampler."""
    pipeline = MoviePipeline.from_folders([curriculum])
    film = pipeline("a thing", aspect=aspect, upsample=False)
    t, height, width, _ = film.frames.shape
    assert t == 16 and height % 16 == 0 and width % 16 == 0
    across, down = ASPECTS[aspect]
    assert (width > height) == (across > down) and (width < height) == (across < down)
    large = pipeline("a thing", aspect=aspect)
    assert large.frames.shape == (16, 2 * height, 2 * width, 3)
    assert large.made_from["models"]["upsampler"]["stage"] == "upsampler"


def test_the_seed_is_all(curriculum: Path) -> None:
    """The same request gives the same film bit for bit; another seed, prompt or guidance another."""
    pipeline = MoviePipeline.from_folders([curriculum])
    first = pipeline("a thing", seed=1, upsample=False).frames
    assert np.array_equal(first, MoviePipeline.from_folders([curriculum])("a thing", seed=1, upsample=False).frames)
    for change in ({"seed": 2}, {"guidance": 9.0}, {"steps": 4}):
        assert not np.array_equal(first, pipeline("a thing", **{"seed": 1, "upsample": False, **change}).frames), change
    assert not np.array_equal(first, pipeline("another thing", seed=1, upsample=False).frames)


def test_a_clip_is_edited_and_keeps_its_sound(curriculum: Path, tmp_path: Path) -> None:
    """The edit has the clip's shape at the area trained on, its rate and its sound; another instruction or clip gives another film; the note
    knows the clip by its bytes and not by its name."""
    pipeline = MoviePipeline.from_folders([curriculum])
    level = np.linspace(20, 230, 20)[:, None, None, None]
    source = Film(
        frames=np.broadcast_to(level, (20, 54, 96, 3)).astype(np.uint8),
        fps=Fraction(12),
        sound=np.full(80_000, 0.1, np.float32),
        made_from={},
    )
    source.save(tmp_path / "private-name.mp4")
    clip = str(tmp_path / "private-name.mp4")
    made = pipeline("make it grey", clip=clip, upsample=False)
    assert made.frames.shape == (16, 16, 32, 3) and made.fps == 12
    assert made.sound is not None and abs(len(made.sound) / 48_000 - 16 / 12) < 0.01
    assert "private-name" not in json.dumps(made.made_from) and len(made.made_from["request"]["clip"]) == 64
    assert not np.array_equal(made.frames, pipeline("mirror it", clip=clip, upsample=False).frames)
    Film(frames=255 - source.frames, fps=Fraction(12), made_from={}).save(tmp_path / "other.mp4")
    assert not np.array_equal(made.frames, pipeline("make it grey", clip=str(tmp_path / "other.mp4"), upsample=False).frames)


def test_a_film_has_sound_where_sound_was_trained(curriculum: Path, tmp_path: Path) -> None:
    """The sound is as long as the pictures, keyed by the seed, follows its own text, and the note names its models; it can be left out."""
    pipeline = MoviePipeline.from_folders([curriculum])
    film = pipeline("a thing", upsample=False)
    assert film.sound is not None and len(film.sound) == 16 * 2000 and bool(np.isfinite(film.sound).all())
    assert np.array_equal(film.sound, pipeline("a thing", upsample=False).sound)
    assert not np.array_equal(film.sound, pipeline("a thing", upsample=False, sound_text="a bell").sound)
    assert {film.made_from["models"][m]["stage"] for m in ("sound", "codec")} == {"audio", "codec"}
    assert pipeline("a thing", upsample=False, sound=False).sound is None
    film.save(tmp_path / "a.mp4")
    assert (heard := read_film(tmp_path / "a.mp4").sound) is not None and abs(len(heard) - 32_000) < 2_100


@pytest.mark.parametrize("extension", [[], ["--segments"]])
def test_a_film_of_any_length_gets_a_soundtrack(curriculum: Path, tmp_path: Path, extension: list[str]) -> None:
    """Four seconds, far longer than the window of a third of a second, keep their pictures packet by packet and get a sound of their length."""
    frames = np.broadcast_to((np.arange(48) * 5)[:, None, None, None], (48, 32, 48, 3)).astype(np.uint8)
    Film(frames=frames, fps=Fraction(12)).save(tmp_path / "silent.mp4")
    out = tmp_path / "heard.mp4"
    command = [
        "generate",
        "a hum",
        "--soundtrack",
        str(tmp_path / "silent.mp4"),
        "--models",
        str(curriculum),
        "--out",
        str(out),
        *extension,
    ]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    found, before = read_film(out), read_film(tmp_path / "silent.mp4")
    assert np.array_equal(found.frames, before.frames)
    assert found.sound is not None and abs(len(found.sound) / 48_000 - 4) < 0.05 and float(np.abs(found.sound).max()) > 0
    assert read_note(out)["models"]["codec"]["stage"] == "codec"


def test_a_person_is_shown(curriculum: Path, tmp_path: Path) -> None:
    """Another photo gives another film; what is no picture is said."""
    pipeline, films = MoviePipeline.from_folders([curriculum]), []
    for name, shade in (("a.png", 30), ("b.png", 220)):
        picture = np.full((40, 60, 3), shade, np.uint8)
        picture[10:20] = 255 - shade
        Image.fromarray(picture).save(tmp_path / name)
        films.append(pipeline("a person walks", photo=str(tmp_path / name), upsample=False))
    assert not np.array_equal(films[0].frames, films[1].frames)
    assert films[0].made_from["models"]["video"]["stage"] == "personal_1"
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=r"c\.png"):
        pipeline("a person walks", photo=str(tmp_path / "c.png"))
    with pytest.raises(TrainingError, match="found both"):
        pipeline("x", photo="a", clip="b")


def test_a_photo_stands_upright_and_bombs_are_told(tmp_path: Path) -> None:
    """What EXIF says about turning is done; a picture of billions of pixels in a few bytes, and a broken one, are refused in a sentence."""
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, :20] = 200  # bright on the left; turned by a quarter it is bright at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    found = open_photo(tmp_path / "turned.png")
    assert found.shape == (40, 20, 3) and (found[:20] == 200).all() and (found[20:] == 0).all()
    for name, side in (("bomb", 60_000), ("large", 10_000)):
        chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0"))
        whole = b"".join(struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
        (tmp_path / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    (tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:60])
    for name, match in (("bomb", "at most 67108864 pixels"), ("large", "at most 67108864 pixels"), ("cut", "expected a picture")):
        with pytest.raises(TrainingError, match=match):
            open_photo(tmp_path / f"{name}.png")


@pytest.mark.parametrize("box", [(10, 12, 20, 30), (0, 0, 40, 20), (200, 150, 400, 410)])
def test_a_face_is_shown_as_the_references_of_training_were(box: tuple[int, int, int, int]) -> None:
    """A face cut out of a photo is, bit for bit, what curation lays beside a clip as its reference."""
    picture = np.random.default_rng(3).integers(0, 255, (600, 800, 3), np.uint8)
    shares = [v / side for v, side in zip(box, (800, 600, 800, 600), strict=True)]
    assert np.array_equal(portrait(picture, box), masked_face(picture, shares))
    for wrong in ((-1, 0, 5, 5), (790, 0, 20, 20), (5, 5, 0, 9)):
        with pytest.raises(ValueError, match="within the 800x600 pixels"):
            portrait(picture, wrong)


def test_a_face_is_found_by_curations_detector(curriculum: Path, tmp_path: Path) -> None:
    """With a detector's weights, or its box, the face alone is shown and the note has the box; with neither the user is told; no face, no film."""
    Image.fromarray(painted(160, 320, [(96, 48)], 16)).save(tmp_path / "her.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "nobody.png")
    weights = yunet(tmp_path / "faces.onnx")
    base = ["generate", "a person walks", "--models", str(curriculum), "--out", str(tmp_path / "her.mp4"), "--no-upsample", "--no-sound"]
    her = [*base, "--photo", str(tmp_path / "her.png")]
    made = json.loads(CliRunner().invoke(app, [*her, "--face-weights", weights, "--json"], catch_exceptions=False).stdout)[0]
    x, y, width, height = made["request"]["face"]
    assert 80 <= x + width / 2 <= 112 + 16 and 32 <= y + height / 2 <= 64 + 16
    again = [*her, "--face", f"{x},{y},{width},{height}", "--json"]
    assert not json.loads(CliRunner().invoke(app, again, catch_exceptions=False).stdout)[0]["new"]
    plain = CliRunner().invoke(app, her, catch_exceptions=False)
    assert "a picture of a face alone" in plain.output and "face" not in read_note(tmp_path / "her.mp4")["request"]
    for more, match in ((["--face", "1,2,3"], "x,y,width,height"), (["--face", "0,0,900,9"], "within the")):
        result = CliRunner().invoke(app, [*her, *more])
        assert result.exit_code == 2 and match in " ".join(result.output.split()), result.output
    result = CliRunner().invoke(app, [*base, "--photo", str(tmp_path / "nobody.png"), "--face-weights", weights])
    assert result.exit_code == 2 and "found none" in " ".join(result.output.split())


@pytest.mark.parametrize("stage", ["video_sft/average", "upsampler/export", "edit_1/export", "personal_1/export"])
def test_text_encoders_that_have_changed_are_refused(curriculum: Path, tmp_path: Path, stage: str) -> None:
    """A stage of any kind that was trained under other text encoders than its description loads is named, with both keys."""
    shutil.copytree(curriculum / stage, tmp_path / "other")
    described = json.loads((tmp_path / "other/config.json").read_text()) | {"text_keys": {"bytes": "0" * 64}}
    (tmp_path / "other/config.json").write_text(json.dumps(described))
    exports = find_exports([tmp_path / "other"])
    with pytest.raises(TrainingError, match=r"other: expected the text encoders .*0000.*found"):
        MoviePipeline(exports, beside=find_exports([curriculum])).generator(exports[0])


def test_stages_share_encoders_and_hold_copies_of_their_weights(curriculum: Path, tmp_path: Path) -> None:
    """Stages with the same text settings have one cache of prompts, the sound's too; weights are in the pipeline's precision and not the
    file's own memory; what is forgotten is loaded again, the same."""
    shutil.copytree(curriculum, tmp_path / "c")
    pipeline = MoviePipeline.from_folders([tmp_path / "c"], dtype=torch.bfloat16)
    video, maker = pipeline.video(), pipeline.sound_maker
    assert maker is not None and pipeline.upsampler is not None
    assert (
        len({id(video.task._texts), id(pipeline.upsampler.task._texts), id(pipeline.video(kind="edit").task._texts), id(maker.texts)}) == 1
    )
    assert {p.dtype for m in (video.model, maker.model) for p in m.parameters()} == {torch.bfloat16} and maker.dtype == torch.bfloat16
    film = pipeline("a thing", upsample=False)
    assert film.sound is not None and bool(np.isfinite(film.sound).all())
    whole = MoviePipeline.from_folders([tmp_path / "c"])
    before = whole("a thing", upsample=False, sound=False).frames
    with (tmp_path / "c/video_sft/average/weights.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\0" * 4096)
    assert np.array_equal(before, whole("a thing", upsample=False, sound=False).frames)
    pipeline.forget()
    assert not pipeline._known and not pipeline.texts and "sound_maker" not in pipeline.__dict__
    with pytest.raises(TrainingError, match="SHA-256"):
        pipeline("a thing")


def test_a_stage_of_another_kind_says_what_it_needs(curriculum: Path) -> None:
    """A stage that is there is not called missing: it is said what it is for."""
    pipeline = MoviePipeline.from_folders([curriculum])
    for wishes, match in (
        ({"stage": "edit_1"}, "edit_1 needs --edit"),
        ({"stage": "personal_1"}, "personal_1 needs --photo"),
        ({"stage": "upsampler"}, "upsampler makes no films of its own"),
        ({"stage": "audio"}, "audio makes no pictures"),
        ({"stage": "t2v_768", "clip": "a.mp4"}, "t2v_768 makes films of prompts and takes no clip"),
    ):
        with pytest.raises(TrainingError, match=match):
            pipeline("x", **wishes)


def test_steps_reach_every_stage_that_samples(curriculum: Path) -> None:
    """The upsampler and the sound of the same pictures change with the steps; guidance is of the pictures alone."""
    pipeline = MoviePipeline.from_folders([curriculum])
    pixels = pipeline.text_to_video(pipeline.video(), Request(prompt="a thing"))
    assert not torch.equal(pipeline.enlarge(pixels, "a thing", 0), pipeline.enlarge(pixels, "a thing", 0, 4))
    sampled = [pipeline("a thing", upsample=False, steps=n, n_frames=16).sound for n in (None, 4)]
    assert sampled[0] is not None and sampled[1] is not None and not np.array_equal(*sampled)


def test_what_is_cut_and_what_no_edit_knows_is_told(curriculum: Path, tmp_path: Path) -> None:
    """A clip longer than the editor knows is cut, and an instruction of no kind that was trained is made all the same: both are said. So is
    neither where there is no reason; frames beyond the model are refused."""
    for length in (16, 20):
        Film(frames=np.zeros((length, 32, 32, 3), np.uint8), fps=Fraction(12)).save(tmp_path / f"{length}.mp4")
    pipeline = MoviePipeline.from_folders([curriculum])

    def said(prompt: str, length: int, **wishes: Any) -> str:
        lines: list[str] = []
        made = pipeline(prompt, clip=str(tmp_path / f"{length}.mp4"), upsample=False, on_step=lines.append, **wishes)
        assert len(made.frames) == min(16, wishes.get("n_frames", 16))
        return " ".join(lines)

    assert "only the first 16 frames, 1.3 s, are edited" in said("Make it grey.", 20)
    assert "only the first" not in said("Make it grey.", 16) + said("Make it grey.", 20, n_frames=8)
    assert "names no kind of edit" in said("Give the dog a hat.", 16) and "names no kind" not in said("Make it black and white.", 16)
    with pytest.raises(TrainingError, match="at most 16 with edit_1, found 17"):
        said("Make it grey.", 20, n_frames=17)


def test_a_request_does_not_depend_on_those_before(curriculum: Path) -> None:
    """A square film is the same bit for bit after a wide one, whose tables of positions had to be stretched."""
    pipeline = MoviePipeline.from_folders([curriculum])
    first = pipeline("a thing", upsample=False, sound=False).frames
    wide = pipeline("a thing", aspect="4:3", upsample=False, sound=False).frames
    assert wide.shape[2] > 32  # wider than the tables reach
    assert np.array_equal(first, pipeline("a thing", upsample=False, sound=False).frames)


def test_a_curriculum_that_ends_with_pictures_makes_films(curriculum: Path, tmp_path: Path) -> None:
    """The last stage that was trained on more than a frame is taken, and a stage's own folder gives its average."""
    tae = find_exports([curriculum / "tae"])[0].sha256
    generator(tmp_path / "t2i_1024/export", "t2i_1024", tae, MODEL, 1)
    assert MoviePipeline.from_folders([curriculum, tmp_path]).video().export.stage == "video_sft"
    assert MoviePipeline.from_folders([curriculum, tmp_path]).video("t2i_1024").export.stage == "t2i_1024"
    assert [e.folder.name for e in find_exports([curriculum / "video_sft"])] == ["average"]


def test_films_of_other_models_or_without_the_asked_signature_are_made_anew(curriculum: Path, tmp_path: Path) -> None:
    """With sound left out a film is another; with a key, one that is not signed by it is made again, and then no more."""
    generate_key(tmp_path / "key")
    film = str(tmp_path / "film.mp4")
    command = ["generate", "a thing", "--models", str(curriculum), "--out", film, "--no-upsample", "--json"]

    def new(*more: str) -> bool:
        made: bool = json.loads(CliRunner().invoke(app, [*command, *more], catch_exceptions=False).stdout)[0]["new"]
        return made

    assert new() and not new()
    assert new("--no-sound") and not new("--no-sound")
    assert new("--no-sound", "--sign", str(tmp_path / "key")) and not new("--no-sound", "--sign", str(tmp_path / "key"))


def test_what_cannot_be_made_is_said(curriculum: Path, tmp_path: Path) -> None:
    """Too many frames, an unknown stage, an odd number of steps, and an autoencoder that is not there are refused in a sentence."""
    pipeline = MoviePipeline.from_folders([curriculum])
    with pytest.raises(TrainingError, match="at most 16"):
        pipeline("x", n_frames=17)
    with pytest.raises(TrainingError, match="stage t9"):
        pipeline("x", stage="t9")
    with pytest.raises(TrainingError, match="even number"):
        pipeline("x", steps=3)
    generator(tmp_path / "lonely", "t2v_256", "0" * 64, MODEL, 16)
    with pytest.raises(TrainingError, match="give their folder too"):
        MoviePipeline.from_folders([tmp_path / "lonely"])("x")


def test_the_command_makes_what_is_missing(curriculum: Path, tmp_path: Path) -> None:
    """Two prompts become two films and a page; the same command makes none again, and after one is cut short makes that one again, the same."""
    (tmp_path / "prompts.txt").write_text("a red <b>thing</b>\n\na blue thing\n")
    command = [
        "generate",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--models",
        str(curriculum),
        "--out",
        str(tmp_path / "films"),
        "--json",
    ]
    first = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert [f["new"] for f in first] == [True, True]
    paths = [Path(f["film"]) for f in first]
    assert read_note(paths[0])["request"]["prompt"] == "a red <b>thing</b>"
    page = (tmp_path / "films" / "index.html").read_text()
    assert "a red &lt;b&gt;thing&lt;/b&gt;" in page and "<b>thing" not in page and paths[1].name in page
    before = paths[1].read_bytes()
    assert [f["new"] for f in json.loads(CliRunner().invoke(app, command).stdout)] == [False, False]
    paths[1].write_bytes(before[: len(before) // 2])
    assert [f["new"] for f in json.loads(CliRunner().invoke(app, command).stdout)] == [False, True]
    assert paths[1].read_bytes() == before


def test_wrong_commands_are_told_in_a_sentence(curriculum: Path, tmp_path: Path) -> None:
    """One file for two prompts, no models, and half a certificate end with status 2 and no traceback."""
    (tmp_path / "p.txt").write_text("a\nb\n")
    for command in (
        ["generate", "--prompts", str(tmp_path / "p.txt"), "--models", str(curriculum), "--out", str(tmp_path / "one.mp4")],
        ["generate", "a", "--models", str(tmp_path)],
        ["generate", "a"],
        ["generate", "a", "--models", str(curriculum), "--certificate", str(tmp_path / "x")],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2 and "Traceback" not in result.output, (command, result.output)


def test_prompt_files_are_read(tmp_path: Path) -> None:
    """Lines of text, objects of .jsonl and columns of .csv, as Movie Gen Bench has them, with what is to be heard; a field that is missing,
    or no text, is named with its line."""
    lines = '{"video_prompt": "one", "audio_prompt": "a bell", "music_prompt": "slow strings."}\n{"prompt": "two", "audio_prompt": null}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.csv").write_text('prompt,tag\n"three, with a comma",motion\n')
    assert read_prompts(tmp_path / "a.jsonl") == [("one", "a bell. slow strings."), ("two", None)]
    assert read_prompts(tmp_path / "a.csv") == [("three, with a comma", None)]
    (tmp_path / "c.jsonl").write_text('{"prompt": "a line\u2028in one"}\n')
    assert read_prompts(tmp_path / "c.jsonl") == [("a line\u2028in one", None)]
    (tmp_path / "c.csv").write_text("\ufeffvideo_prompt,audio_prompt\nfour,rain!\n")
    assert read_prompts(tmp_path / "c.csv") == [("four", "rain!")]
    (tmp_path / "d.jsonl").write_text('{"prompt": "one", "audio_prompt": ["a", "b"]}\n')
    with pytest.raises(PromptError, match=r"d\.jsonl:1: expected text in audio_prompt, found list"):
        read_prompts(tmp_path / "d.jsonl")
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n{"words": "two"}\n')
    with pytest.raises(PromptError, match=r"b\.jsonl:2"):
        read_prompts(tmp_path / "b.jsonl")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(PromptError, match="at least one prompt"):
        read_prompts(tmp_path / "empty.txt")


def test_a_prompt_files_sound_is_what_is_heard(curriculum: Path, tmp_path: Path) -> None:
    """The sound of a prompt file's row is made for its own words, as --sound-text would have it, which goes before them."""
    (tmp_path / "p.jsonl").write_text('{"video_prompt": "a thing", "audio_prompt": "a bell"}\n')
    base = ["generate", "--models", str(curriculum), "--no-upsample", "--json"]

    def said(*more: str) -> Any:
        made = json.loads(CliRunner().invoke(app, [*base, *more], catch_exceptions=False).stdout)[0]
        assert made["request"]["prompt"] == "a thing"
        return made["request"]["sound_text"]

    listed = ["--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "films")]
    assert said(*listed) == "a bell." and said(*listed, "--sound-text", "rain") == "rain"
    assert said("a thing", "--out", str(tmp_path / "a.mp4")) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--soundtrack", "a.mp4", "--count", "2"], ("--soundtrack", "--count")),
        (["--soundtrack", "a.mp4", "--edit", "b.mp4"], ("--soundtrack", "--edit")),
        (["--soundtrack", "a.mp4", "--photo", "b.png"], ("--soundtrack", "--photo")),
        (["--soundtrack", "a.mp4", "--rewriter", "http://localhost"], ("--soundtrack", "--rewriter")),
        (["--soundtrack", "a.mp4", "--stage", "x"], ("--soundtrack", "--stage")),
        (["--soundtrack", "a.mp4", "--no-sound"], ("--soundtrack", "--no-sound")),
        (["--edit", "a.mp4", "--fps", "24"], ("--edit", "--fps")),
        (["--edit", "a.mp4", "--aspect", "1:1"], ("--edit", "--aspect")),
        (["--edit", "a.mp4", "--rewriter", "http://localhost"], ("--edit", "--rewriter")),
        (["--edit", "a.mp4", "--photo", "b.png"], ("--edit", "--photo")),
        (["--segments"], ("--segments", "--soundtrack")),
        (["--face", "1,2,3,4"], ("--face", "--photo")),
        (["--photo", "a.png", "--face", "1,2,3,4", "--face-weights", "f.onnx"], ("--face", "--face-weights")),
        (["--rewriter-model", "m"], ("--rewriter-model", "--rewriter")),
        (["--sound-text", "rain", "--no-sound"], ("--sound-text", "--no-sound")),
    ],
)
def test_options_without_effect_are_refused(options: list[str], named: tuple[str, str]) -> None:
    """What would be passed over is refused in a sentence that names both options, before any model is looked for."""
    result = CliRunner().invoke(app, ["generate", "a thing", "--models", "/nowhere", *options])
    said = re.sub(r"\W*\n\W*", " ", result.output)
    assert result.exit_code == 2 and all(f"{name} " in said or f"{name}:" in said for name in named), said


def test_a_soundtrack_is_kept_and_heeds_steps(curriculum: Path, tmp_path: Path) -> None:
    """The same command leaves a soundtrack that is there as it is; other steps or guidance give another; of several prompts there is none."""
    frames = np.broadcast_to((np.arange(24) * 5)[:, None, None, None], (24, 32, 48, 3)).astype(np.uint8)
    Film(frames=frames, fps=Fraction(12)).save(tmp_path / "silent.mp4")
    out = tmp_path / "heard.mp4"
    base = ["generate", "--models", str(curriculum), "--soundtrack", str(tmp_path / "silent.mp4"), "--out", str(out), "--json"]

    def new(*more: str) -> bool:
        made: bool = json.loads(CliRunner().invoke(app, [*base, "a hum", *more], catch_exceptions=False).stdout)[0]["new"]
        return made

    assert new()
    before = out.read_bytes()
    assert not new() and out.read_bytes() == before
    assert new("--steps", "4") and out.read_bytes() != before and not new("--steps", "4")
    assert new("--guidance", "5") and read_note(out)["request"]["guidance"] == 5
    (tmp_path / "p.txt").write_text("a hum\na bell\n")
    result = CliRunner().invoke(app, [*base, "--prompts", str(tmp_path / "p.txt")])
    assert result.exit_code == 2 and "--soundtrack and --prompts" in result.output


class Chat(http.server.BaseHTTPRequestHandler):
    """A chat completion endpoint: repeats the user's words in capitals, or fails as the prompt asks."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """One answer."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = body["messages"][-1]["content"]
        self.asked.append(said)
        status = 500 if said == "fail" else 200
        answer = {"choices": [{"message": {"content": "" if said == "silence" else f"  {said.upper()}\n in full "}}]}
        data = b"no json" if said == "nonsense" else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def chat() -> Iterator[str]:
    """The address of a running endpoint."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_prompts_are_rewritten_on_request(chat: str) -> None:
    """The model's caption replaces the prompt, its spaces made single; errors and empty answers are told."""
    config = RewriteConfig(base_url=chat, model="m", api_key_variable="NO_SUCH_KEY")
    assert rewrite("a cat", config) == "A CAT in full"
    for prompt, match in (("fail", "status 200, found 500"), ("silence", "found none"), ("nonsense", "chat completion")):
        with pytest.raises(RewriteError, match=match):
            rewrite(prompt, config)


def test_a_rewritten_prompt_stays_as_it_was(chat: str, curriculum: Path, tmp_path: Path) -> None:
    """The caption is kept beside the films and in their notes, with address and model: the same command asks nobody, even when the server is
    gone, and makes nothing anew; another model is asked; a file of captions that is none is named."""
    out = tmp_path / "films"
    (tmp_path / "p.txt").write_text("a cat\n")
    base = ["generate", "--prompts", str(tmp_path / "p.txt"), "--models", str(curriculum), "--out", str(out), "--no-upsample", "--no-sound"]
    asked = len(Chat.asked)

    def made(*more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            CliRunner().invoke(app, [*base, "--json", "--rewriter", chat, *more], catch_exceptions=False).stdout
        )[0]
        return found

    first = made()
    assert first["new"] and first["request"]["prompt"] == "A CAT in full" and len(Chat.asked) == asked + 1
    assert read_note(Path(first["film"]))["rewritten"] == {"prompt": "a cat", "address": chat, "model": "default"}
    assert not made()["new"] and len(Chat.asked) == asked + 1
    assert made("--rewriter-model", "other")["new"] and len(Chat.asked) == asked + 2
    kept = json.loads((out / "rewritten.json").read_text())["captions"]
    assert [(row["prompt"], row["model"], row["caption"]) for row in kept] == [
        (("a cat"), m, "A CAT in full") for m in ("default", "other")
    ]
    (out / "rewritten.json").write_text('{"captions": [{"prompt": 3}]}')
    result = CliRunner().invoke(app, [*base, "--rewriter", chat])
    assert result.exit_code == 2 and "rewritten.json" in result.output.replace("\n", "")


def test_a_key_is_not_sent_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key in the environment an http address on the network is refused before anything is sent."""
    monkeypatch.setenv("SOME_KEY", "secret")
    with pytest.raises(RewriteError, match="https"):
        rewrite("a", RewriteConfig(base_url="http://192.0.2.1/v1", model="m", api_key_variable="SOME_KEY"))


def test_a_film_is_verified(curriculum: Path, tmp_path: Path) -> None:
    """`dailies verify FILM` says which models made it, with a key who signed; a film that was changed ends with status 1."""
    generate_key(tmp_path / "key")
    film = tmp_path / "film.mp4"
    command = ["generate", "a thing", "--models", str(curriculum), "--out", str(film), "--no-upsample", "--sign", str(tmp_path / "key")]
    assert CliRunner().invoke(app, command).exit_code == 0
    said = json.loads(CliRunner().invoke(app, ["verify", str(film), "--key", str(tmp_path / "key.pub"), "--json"]).stdout)
    assert said["holds"] and said["note"]["models"]["video"]["stage"] == "video_sft" and said["note"]["request"]["prompt"] == "a thing"
    assert said["signed_by"] in said["signers"] and said["c2pa_state"] == "none"
    text = CliRunner().invoke(app, ["verify", str(film)]).stdout
    assert "video_sft" in text and f"which names {said['signed_by']} as its signer: give the maker's key" in text
    data = bytearray(film.read_bytes())
    data[data.index(b"mdat") + 100] ^= 1
    film.write_bytes(data)
    result = CliRunner().invoke(app, ["verify", str(film)])
    assert result.exit_code == 1 and "does not hold" in result.stdout


def test_a_note_cannot_speak_for_the_verdict(tmp_path: Path) -> None:
    """What a note holds under the names of the verdict stays inside it; an unsigned one is said to be anyone's; models of odd shape are shown
    as far as they can be, and end in no traceback."""
    frames, path = np.zeros((4, 32, 48, 3), np.uint8), tmp_path / "a.mp4"
    odd: list[Any] = [["x"], {"video": ["x"], "\x1b[2Jb": {"stage": 1, "sha256": 7}}, "x", None, 3]
    for models in odd:
        claims = {"holds": "surely", "signed_by": "the president", "signers": ["x"], "c2pa_state": "valid", "models": models}
        Film(frames=frames, fps=Fraction(24), made_from=claims).save(path)
        said = json.loads(CliRunner().invoke(app, ["verify", str(path), "--json"], catch_exceptions=False).stdout)
        assert said["holds"] is True and said["signed_by"] is None and said["signers"] == [] and said["c2pa_state"] == "none"
        assert said["note"] == claims
        text = CliRunner().invoke(app, ["verify", str(path)], catch_exceptions=False)
        assert text.exit_code == 0 and "not signed: anyone could have written it" in text.stdout and "\x1b" not in text.stdout


def test_content_credentials_are_told_when_a_film_is_verified(curriculum: Path, tmp_path: Path) -> None:
    """A film with a certificate is `untrusted` (its signer is not known) and made by a model; an edit, and a camera's film that only got a
    sound, are composites; the same command leaves a film with our credentials, and makes one with another's anew."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    ours, other = certificate(tmp_path / "mine"), certificate(tmp_path / "other")
    camera = write_video(tmp_path / "camera.mp4", [np.full((32, 48, 3), 5 * i, np.uint8) for i in range(20)])
    model, composite = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"

    def run(out: str, signer: Credentials, *more: str) -> Any:
        command = ["generate", "a thing", "--models", str(curriculum), "--out", str(tmp_path / out), "--no-upsample", "--json", *more]
        command += ["--certificate", str(signer.chain), "--certificate-key", str(signer.key)]
        return json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)[0]

    for out, more, kind in (
        ("a.mp4", [], model),
        ("b.mp4", ["--edit", str(camera)], composite),
        ("c.mp4", ["--soundtrack", str(camera)], composite),
    ):
        run(out, ours, *more)
        said = json.loads(CliRunner().invoke(app, ["verify", str(tmp_path / out), "--json"], catch_exceptions=False).stdout)
        assert said["holds"] and (said["c2pa_state"], said["c2pa_source_type"]) == ("untrusted", kind)
    assert "Content Credentials: untrusted, trained" in CliRunner().invoke(app, ["verify", str(tmp_path / "a.mp4")]).stdout
    assert not run("a.mp4", ours)["new"] and run("a.mp4", other)["new"]


def test_what_lies_at_out_is_not_lost(curriculum: Path, tmp_path: Path) -> None:
    """A camera's film, the film that is edited or dubbed, a page of others and a folder are refused before anything is made, and are as they
    were; --overwrite replaces files, never a folder. A film made here is replaced as ever."""
    camera = write_video(tmp_path / "camera.mp4", [np.full((32, 48, 3), 5 * i, np.uint8) for i in range(20)])
    (tmp_path / "page.html").write_text("<p>mine</p>")
    (tmp_path / "folder.mp4").mkdir()
    made = tmp_path / "made.mp4"
    base = ["generate", "a thing", "--models", str(curriculum), "--no-upsample", "--no-sound", "--json"]
    assert CliRunner().invoke(app, [*base, "--out", str(made)], catch_exceptions=False).exit_code == 0
    before = {path: path.read_bytes() for path in (camera, made, tmp_path / "page.html")}
    for more, match in (
        (["--out", str(camera)], "found another: choose another --out, or --overwrite"),
        (["--out", str(camera), "--edit", str(camera)], "would be lost"),
        (["--out", str(made), "--edit", str(made)], "would be lost"),
        (["--out", str(made), "--soundtrack", str(made)], "would be lost"),
        (["--out", str(camera), "--soundtrack", str(made)], "found another"),
        (["--out", str(tmp_path / "page.mp4")], "page.html: expected no file, or a page of"),
        (["--out", str(tmp_path / "folder.mp4")], "found a folder"),
        (["--out", str(tmp_path / "folder.mp4"), "--overwrite"], "found a folder"),
        (["--out", str(tmp_path), "--soundtrack", str(camera)], "expected the name of an mp4, found a folder"),
        (["--out", str(tmp_path / "page.html")], "expected a folder, or the name of an mp4"),
    ):
        heard = [option for option in base if option != "--no-sound" or "--soundtrack" not in more]
        result = CliRunner().invoke(app, [*heard, *more])
        assert result.exit_code == 2 and "Traceback" not in result.output, (more, result.output)
        assert match in " ".join(result.output.split()), (more, result.output)
    assert {path: path.read_bytes() for path in before} == before and not (tmp_path / "page.mp4").exists()
    for more in (["--out", str(made), "--seed", "1"], ["--out", str(camera), "--edit", str(camera), "--overwrite"]):
        assert CliRunner().invoke(app, [*base, *more], catch_exceptions=False).exit_code == 0
    assert read_note(camera)["request"]["clip"] == hashlib.sha256(before[camera]).hexdigest()


def test_a_soundtrack_that_cannot_be_stored_is_said_first(curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film of a codec that mp4 has no place for is refused before its sound is made."""
    monkeypatch.setattr(MoviePipeline, "soundtrack", lambda *_: pytest.fail("a sound was made"))
    source = write_prores(tmp_path / "a.mov")
    command = ["generate", "a hum", "--soundtrack", str(source), "--models", str(curriculum), "--out", str(tmp_path / "b.mp4")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 2 and "an mp4 can hold" in " ".join(result.output.split())


def test_a_large_clip_is_made_small_as_it_is_decoded(curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a clip of 1920 x 1080 the frames that are held at any time are those of the area trained on."""
    source = write_video(tmp_path / "a.mp4", [np.full((1080, 1920, 3), 10 * i, np.uint8) for i in range(16)])
    held: list[tuple[int, ...]] = []
    whole = np.stack

    def stacked(frames: Any, *rest: Any, **named: Any) -> Any:
        held.extend(np.shape(frame) for frame in frames)
        return whole(frames, *rest, **named)

    monkeypatch.setattr("training.film.np.stack", stacked)
    made = MoviePipeline.from_folders([curriculum])("make it grey", clip=str(source), upsample=False)
    assert made.frames.shape == (16, 16, 32, 3) and set(held) == {(16, 32, 3)}
