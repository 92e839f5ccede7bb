"""Edits are pure and keyed; the editor is given the source, begins as its parent, and learns to use what it is given."""

import dataclasses
import re
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import edits, instructions, keyed
from training.data.batch import Batch
from training.data.index import Sample
from training.data.text_cache import TextCache
from training.edits import COLOURS, KINDS, NONE, OTHER, SEGMENT, TASKS, WORDS, EditConfig
from training.flow import SamplerConfig
from training.instructions import ASKS
from training.latents import LatentCodec, measure_scale
from training.losses import psnr_db
from training.models import layers
from training.models.autoencoder import TAE, TAEConfig
from training.models.text import TextConfig, load_encoders
from training.models.transformer import TransformerConfig
from training.tasks.edit import EditTask
from training.tasks.flow_config import FlowConfig
from training.tasks.text_to_video import Asked, TextToVideoTask

CLIPS = ("a", "b", "c", "d")
PROMPTS = {"a": "a red square", "b": "green hills", "c": "two blue birds", "d": "a grey wall"}
MODEL = TransformerConfig(
    layers=2, width=48, ffn=96, heads=4, latent_channels=4, max_t=3, max_h=2, max_w=2, bytes_width=32, context_channels=4, tasks=len(TASKS)
)
CONFIG = FlowConfig(
    model=MODEL,
    text=TextConfig(bytes_width=32, bytes_tokens=16),
    sampler=SamplerConfig(steps=10, linear_steps=20, guidance=1.0),
    edit=EditConfig(),
)


def pictures(frames: int, side: int = 32) -> Tensor:
    """Four clips (4, 3, frames, side, side): a bright square on a ramp of a colour of its own."""
    levels = torch.tensor([[0.7, -0.6, -0.6], [-0.6, 0.6, -0.5], [-0.6, -0.4, 0.7], [0.0, 0.1, -0.1]])
    x = levels[:, :, None, None, None].expand(-1, -1, frames, side, side) + torch.linspace(-0.3, 0.3, side)
    x = x.clone()
    x[:, :, :, side // 4 : side // 2, side // 4 : side // 2] = levels.flip(1)[:, :, None, None, None]
    return x.clamp(-1, 1)


@lru_cache
def codec() -> LatentCodec:
    """A small autoencoder with keyed weights, its latents scaled on the test's pictures."""
    tae = TAE(TAEConfig(base_channels=8, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=4))
    layers.initialise(tae, 0)
    return LatentCodec(tae, measure_scale(tae, pictures(9)), "f" * 64, memory_bytes=1 << 22)


def task(
    config: FlowConfig = CONFIG, kind: type[TextToVideoTask] = EditTask, prompts: dict[str, str] = PROMPTS, **changes: object
) -> TextToVideoTask:
    """The task over the four clips."""
    return kind("edit_test", config, 0, codec(), prompts, TextCache(load_encoders(config.text)), **changes)


def with_edit(**changes: object) -> FlowConfig:
    """The configuration with another stage's edits."""
    return dataclasses.replace(CONFIG, edit=EditConfig(**changes))


def batch(x: Tensor, step: int = 0, **beside: Tensor) -> Batch:
    """The clips as one rank's batch."""
    kind = "image" if x.shape[2] == 1 else "video"
    return Batch(step=step, kind=kind, pixels=x, clip_ids=CLIPS[: len(x)], epochs=(step,) * len(x), beside=beside)


def keys(epoch: int = 0) -> list[tuple[object, ...]]:
    """The draws of the four clips in one pass."""
    return [(0, "edit_test", c, epoch) for c in CLIPS]


def held(clip: str, kind: str = "image") -> Sample:
    """An index entry for the clip."""
    empty = {"clip_no": 0, "set_name": "s", "bucket": "b", "shard_path": "p", "offset": 0, "size_bytes": 0, "sha256": b"", "group": clip}
    return Sample(clip_id=clip, kind=kind, width=32, height=32, n_frames=9, fps_num=24, fps_den=1, **empty)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_edit_is_a_pure_function_that_changes_something(kind: edits.Kind) -> None:
    """The same key gives the same bits, the source is left as it was, values stay in [-1, 1], and every frame is treated alike."""
    x = pictures(3, 48)[1]
    before = x.clone()
    (made, said), (again, _) = (kind.make(x, ("k",)) for _ in range(2))
    assert torch.equal(made, again) and torch.equal(x, before)
    assert made.shape == x.shape and float(made.abs().max()) <= 1 and float((made - x).abs().mean()) > 0.003
    assert torch.equal(made[:, 0], made[:, 2])
    assert (said and kind.undo and said != kind.undo) or kind.name in ("inverted", "mirrored", "upside_down")


def test_an_instruction_tells_its_task_and_the_way_back() -> None:
    """Whatever colour or word a key draws, the instruction is known by its words; back is what the kind says; others are `other`."""
    x = pictures(1)[0]
    for kind in KINDS:
        for number in range(6):
            said = kind.make(x, ("k", number))[1]
            assert edits.undo_of(said) == kind.undo and edits.task_of(said) == TASKS.index(kind.task)
    assert edits.task_of("mark the object with red") == SEGMENT and edits.task_of("give the dog a hat") == OTHER
    assert edits.undo_of("give the dog a hat") == "undo this: give the dog a hat"
    assert {kind.make(x, ("k", i))[1] for kind in KINDS if kind.name == "framed" for i in range(60)} == {
        f"put a {name} frame around it" for name in COLOURS
    }


def test_the_sentences_of_the_docs_are_of_a_kind_that_was_trained() -> None:
    """Every instruction beside --edit in the documents and in the command's help has a task of its own, not `other`."""
    root = Path(__file__).resolve().parents[2]
    texts = [p.read_text() for p in (root / "README.md", root / "docs/ml-engineers.md", root / "pipelines/cli_generate.py")]
    said = [m for text in texts for m in re.findall(r'dailies generate "([^"]+)"[^\n]*--edit', text)]
    said += [m for text in texts for m in re.findall(r'is the instruction, e\.g\. "([^"]+)"', text)]
    assert len(said) >= 3 and all(edits.task_of(s) not in (OTHER, NONE) for s in said), said


@pytest.mark.parametrize(
    ("said", "task"),
    [
        ("Please turn this clip into black & white!", "colour"),
        ("  Make the colors   WARMER… ", "colour"),
        ("Convert the film to grayscale", "colour"),
        ("Could you blur it?", "style"),
        ("Flip the video horizontally.", "geometry"),
        ("Write “NEW YORK” on it.", "text"),
        ("Put a light blue frame around it.", "object"),
        ("Make it a bit brighter.", "light"),
        ("Mark the object with red.", "segment"),
        ("Give it back its colours.", "colour"),
        ("make it red and green", "other"),
        ("make the object taller", "other"),
    ],
)
def test_an_instruction_is_known_by_what_it_says_and_not_letter_by_letter(said: str, task: str) -> None:
    """Case, end marks, spelling and politeness do not matter; what names no colour is not taken for one."""
    assert TASKS[edits.task_of(said)] == task


def test_the_sentences_of_a_kind_are_its_own() -> None:
    """Every kind has sentences, none is another's, and the first is the one that it is trained under."""
    for kind in KINDS:
        asks = [ask.format(colour="red", words='"STOP"') for ask in ASKS[kind.name]]
        assert all(edits.undo_of(ask) == kind.undo for ask in asks), kind.name
        assert any(kind.make(pictures(1)[0], ("k", i))[1] == ASKS[kind.name][0].format(colour="red", words='"STOP"') for i in range(60))
    assert all(edits.task_of(said) != OTHER for said in instructions.examples())
    assert set(ASKS) == {kind.name for kind in KINDS} | {"segment"} and set(COLOURS) < set(instructions.COLOURS)


def test_words_can_be_read() -> None:
    """Every word has its letters, and the letters of two words differ."""
    rows = {word: edits._letters(word) for word in WORDS}
    assert all(r.shape == (5, 4 * len(w) - 1) and int(r.sum()) > 5 * len(w) for w, r in rows.items())
    assert not torch.equal(rows["HELLO"], rows["NORTH"])


def test_a_segmentation_marks_the_object_and_nothing_else() -> None:
    """What stands out is the square; with a mask it is the mask's part that is marked, in the colour that the instruction says."""
    x = pictures(1, 64)[0]
    found = edits.salient(x)[0]
    truth = torch.zeros(64, 64, dtype=torch.bool)
    truth[16:32, 16:32] = True
    assert float((found & truth).sum() / (found | truth).sum()) > 0.9
    made = edits.segment(x, ("k",), truth[None])
    name = made.instruction.removeprefix("mark the object with ")
    assert torch.equal(made.target[:, 0, truth].T, torch.tensor(COLOURS[name]).expand(256, 3))
    assert torch.equal(made.target[:, 0, ~truth], x[:, 0, ~truth]) and made.task == SEGMENT
    assert not bool(edits.salient(torch.zeros(3, 1, 32, 32)).any())


def test_one_motion_moves_source_and_target_alike() -> None:
    """The first frame is as it was; the edit of the moved source is the moved edit; another key moves otherwise."""
    config, x = EditConfig(frames=9), pictures(1, 64)[0]
    edited = edits.edit(x, ("k", 3))._replace(target=-x)
    moved = edits.animate(edited, config, ("k",))
    assert moved.source.shape == (3, 9, 64, 64) and torch.allclose(moved.source[:, 0], x[:, 0], atol=1e-4)
    assert torch.allclose(moved.target, -moved.source, atol=1e-6)
    assert float((moved.source[:, 8] - moved.source[:, 0]).abs().mean()) > 0.01
    assert not torch.equal(edits.motion(config, ("k",)), edits.motion(config, ("l",)))


def test_a_picture_stands_at_a_random_place_in_time() -> None:
    """Over keys each of the model's latent frames comes; one key gives one place; animated pictures end within the table."""
    of = task()
    starts = [of.asked(pictures(1), CLIPS, keys(e), batch(pictures(1))).start for e in range(12)]
    again = of.asked(pictures(1), CLIPS, keys(3), batch(pictures(1))).start
    assert starts[3] is not None and torch.equal(starts[3], again)
    assert set(torch.cat([s for s in starts if s is not None]).tolist()) == {0, 1, 2}
    moving = task(with_edit(frames=16)).asked(pictures(1), CLIPS, keys(), batch(pictures(1)))
    assert moving.x_1.shape == (4, 4, 2, 4, 4) and moving.start is not None and int(moving.start.max()) <= 1


def test_videos_are_text_to_video_with_a_black_source_or_pairs() -> None:
    """A video without a source is asked for under its caption from black frames; one with a source, from that, as `other`."""
    of, x = task(), pictures(9)
    asked = of.asked(x, CLIPS, keys(), batch(x))
    assert asked.task.tolist() == [NONE] * 4 and list(asked.prompts) == list(PROMPTS.values()) and asked.start is None
    assert torch.equal(asked.context, codec().encode(-torch.ones_like(x)))
    given = {"has_source": torch.tensor([[1], [0], [0], [0]], dtype=torch.uint8), "source": torch.full(x.shape, 255, dtype=torch.uint8)}
    paired = of.asked(x, CLIPS, keys(), batch(x, **given))
    assert paired.task.tolist() == [OTHER, NONE, NONE, NONE]
    assert torch.allclose(paired.context[:1], codec().encode(torch.ones_like(x[:1])), atol=1e-5)
    assert torch.allclose(paired.context[1:], asked.context[1:], atol=1e-5) and torch.equal(paired.x_1, asked.x_1)


def test_a_small_set_can_have_few_edits() -> None:
    """With a `variety` of 2 every second pass has the same edits, bit for bit; without one each pass has its own."""
    x = pictures(1)
    for config, period in ((with_edit(variety=2), 2), (with_edit(), 100)):
        of = task(config)
        said = [of.asked(x, CLIPS, keys(e), batch(x, e)) for e in (0, 1, 2, 3)]
        assert torch.equal(said[0].x_1, said[2].x_1) == (period == 2) and said[0].prompts != said[1].prompts


def test_videos_give_pictures_by_step() -> None:
    """With `stills_of` 6, five steps of six edit the first frames of videos and one is text to video; held-out clips always do the same."""
    of, x = task(with_edit(stills_of=6)), pictures(9)
    frames = [of.asked(x, CLIPS, keys(step), batch(x, step)).x_1.shape[2] for step in range(12)]
    assert frames == [1, 1, 1, 1, 1, 2] * 2
    of.held = {c: {} for c in CLIPS}
    shapes = [of.asked(x[:1], [c], [("validate/v1", c)], None).x_1.shape[2] for c in (*CLIPS, *CLIPS)]
    assert shapes[:4] == shapes[4:] and isinstance(of, EditTask)
    shown = of.sample(of.module(), held("a", "video"), x[:1])
    assert shown.shape == x[:1].shape


def test_a_mask_member_is_what_is_marked() -> None:
    """Where a shard has a mask, segmentation marks that; without one, what stands out."""
    of, x = task(with_edit(segment_share=1.0)), pictures(1)
    mask = torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
    mask[0, :, 20:, :] = 255
    nothing = {"has_source": torch.zeros(4, 1, dtype=torch.uint8), "source": torch.zeros(x.shape, dtype=torch.uint8)}
    made = of.asked(x, CLIPS, keys(), batch(x, mask=mask, **nothing))
    plain = of.asked(x, CLIPS, keys(), batch(x))
    assert made.task.tolist() == [SEGMENT] * 4 and list(made.prompts) == list(plain.prompts)
    assert not torch.equal(made.x_1[0], plain.x_1[0]) and torch.equal(made.x_1[1:], plain.x_1[1:])


def test_an_editor_begins_as_its_parent() -> None:
    """Whatever the source is, a new editor says the same, bit for bit: its weights for it begin as zero, as do those of the task's part of
    the time. From its text-to-video parent it differs by the task's four tokens alone, by less than another prompt makes it differ."""
    plain = dataclasses.replace(CONFIG, edit=None, model=dataclasses.replace(MODEL, context_channels=0, tasks=0))
    base, x = task(plain, TextToVideoTask), pictures(9)
    parent = base.module()
    with torch.no_grad():
        for name, parameter in parent.named_parameters():  # as after training: an untrained model says nothing at all
            if name in ("output.linear.weight", "time.modulation.weight"):
                parameter.add_(0.02 * keyed.normal(tuple(parameter.shape), name))
    editor = task(parent=parent.state_dict())
    child = editor.module()
    z, tokens, masks = codec().encode(x), *TextCache(load_encoders(CONFIG.text)).batch(list(PROMPTS.values()))
    times, others = torch.full((4,), 0.4), {name: value.roll(1, 0) for name, value in tokens.items()}
    with torch.no_grad():
        before, else_said = parent(z, times, tokens, masks), parent(z, times, others, masks)
        said = [child(z, times, tokens, masks, context, torch.full((4,), 1)) for context in (z.flip(0), torch.zeros_like(z))]
    assert torch.equal(*said) and float(child.tasks.time.weight.abs().max()) == 0
    assert float((said[0] - before).norm()) < float((else_said - before).norm())


@pytest.fixture(scope="module")
def learnt() -> tuple[torch.nn.Module, EditTask, float]:
    """(model, task, loss of saying nothing): four pictures and their mirror images, both animated, learnt by heart under one instruction."""
    of = task(with_edit(frames=9, shift=0.0), prompts=dict.fromkeys(CLIPS, "mirror it"))
    assert isinstance(of, EditTask)
    model, asked = of.module(), mirror(of)
    begun = loss(model, of, asked, 0)
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(200):
        x_0 = torch.stack([keyed.normal(tuple(asked.x_1.shape[1:]), "train", c, step) for c in CLIPS])
        t = torch.tensor([(step * 7 + i * 3) % 20 / 20 + 0.02 for i in range(4)])
        error = of._error(model, x_0, t, asked, torch.float32).mean()
        adamw.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
    return model, of, begun


def mirror(of: EditTask) -> Asked:
    """The four pictures' mirror images, of the pictures as their shard has them."""
    x = pictures(1)
    given = {"has_source": torch.ones(4, 1, dtype=torch.uint8), "source": ((x + 1) * 127.5).round().to(torch.uint8)}
    return of.asked(x.flip(4), CLIPS, keys(), batch(x, **given))


def loss(model: torch.nn.Module, of: EditTask, asked: Asked, draw: int) -> float:
    """The mean error at three times with noise that was not trained on."""
    x_0 = torch.stack([keyed.normal(tuple(asked.x_1.shape[1:]), "test", c, draw) for c in CLIPS])
    with torch.no_grad():
        return sum(float(of._error(model, x_0, torch.full((4,), t), asked, torch.float32).mean()) for t in (0.3, 0.5, 0.7)) / 3


def test_four_edits_are_learnt_by_heart_and_from_their_source(learnt) -> None:
    """The loss falls below a third; with another clip's source it is more than twice as high."""
    model, of, begun = learnt
    asked = mirror(of)
    assert asked.context is not None
    right, wrong = loss(model, of, asked, 1), loss(model, of, asked._replace(context=asked.context.roll(1, 0)), 1)
    assert right < begun / 3 and wrong > 2 * right, (begun, right, wrong)


def test_an_edit_is_nearer_to_its_target_than_to_its_source(learnt) -> None:
    """Made from one noise, what comes of each source is nearer to its own mirror image than to any other's, and in pixels nearer to that
    than to the source itself."""
    model, of, _ = learnt
    asked = mirror(of)
    x_0 = keyed.normal(tuple(asked.x_1.shape[1:]), "noise").expand_as(asked.x_1)
    latents = of.latents(model, x_0, asked, torch.float32)
    distances = torch.stack([(latents - z).square().flatten(1).mean(1) for z in asked.x_1], 1)
    assert distances.argmin(1).tolist() == [0, 1, 2, 3], distances
    source, target = (of._codec.decode(z, 9) for z in (asked.context, asked.x_1))
    made = of.edit(model, source, ["mirror it"] * 4, 7)
    nearer = [psnr_db(m, t) - psnr_db(m, s) for m, t, s in zip(made, target, source, strict=True)]
    assert sum(nearer) / 4 > 1.0, nearer


def test_an_edit_has_the_clips_shape_and_a_seed(learnt) -> None:
    """Any clip is edited by words, with guidance over the source or without; the same key gives the same bits, another key others."""
    model, of, _ = learnt
    x = pictures(9)[:1]
    made, again, other = (of.edit(model, x, ["make it darker"], seed) for seed in (1, 1, 2))
    assert made.shape == x.shape and torch.equal(made, again) and not torch.equal(made, other)
    guided = task(dataclasses.replace(with_edit(source_guidance=1.5), sampler=SamplerConfig(steps=4, linear_steps=8, guidance=2.0)))
    assert isinstance(guided, EditTask) and not torch.equal(guided.edit(model, x, ["make it darker"], 1), made)
    assert of.sample(model, held("a"), pictures(1)[:1]).shape == (1, 3, 1, 32, 32)


def test_validation_edits_are_the_same_every_time(learnt) -> None:
    """Two measurements give the same bits."""
    model, of, _ = learnt
    with torch.no_grad():
        first, second = (of.score(model, held("b"), pictures(1)[1:2], torch.float32) for _ in range(2))
    assert torch.equal(first, second) and bool(torch.isfinite(first).all())


def test_work_counts_the_frames_of_an_animation() -> None:
    """An animated picture has a video's tokens, and the source is encoded as well as the target."""
    still, moving = task(), task(with_edit(frames=9))
    shape = (2, 3, 1, 32, 32)
    assert moving.tokens(shape) == 2 * still.tokens(shape) == still.tokens((2, 3, 9, 32, 32))
    plain = task(dataclasses.replace(CONFIG, edit=None, model=dataclasses.replace(MODEL, context_channels=0, tasks=0)), TextToVideoTask)
    assert moving.flops(shape) > still.flops(shape) > plain.flops(shape)


def test_settings_that_do_not_fit_are_refused() -> None:
    """An editor needs context channels, as many tasks as there are, and room in time for its animation."""
    for model, edit, message in (
        (dataclasses.replace(MODEL, tasks=3), EditConfig(), "expected model.context_channels 4 and model.tasks 9"),
        (dataclasses.replace(MODEL, context_channels=0), EditConfig(), "expected model.context_channels 4"),
        (MODEL, EditConfig(frames=25), "expected at most 24"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(CONFIG, model=model, edit=edit)
    with pytest.raises(ValueError, match="edit: expected frames and zoom >= 1"):
        EditConfig(frames=0)
