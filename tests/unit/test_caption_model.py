"""Captions from a local model: a tiny LLaVA that the test makes, teaches two colours, saves and has loaded by the real adapter."""

import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.adapters.transformers_captioner import LocalModelConfig, ModelError, TransformersCaptioner, weights_digest
from curation.caption_facts import SidecarConfig
from curation.caption_prompt import Length, Subject, frame_digest
from curation.captions import CaptionClips, CaptionConfig
from curation.keyframes import KeyFrame, encode_jpeg
from manifests.records import Asset, Clip

pytest.importorskip("transformers")
pytestmark = pytest.mark.engine  # importing transformers takes 9 s of CPU, the tests themselves 2

ASK = "what colour"
CHAT = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %} : {% endfor %}"
COLOURS = {"a red square": (220, 30, 30), "a blue wall": (30, 30, 220)}
ASSET = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="a.mp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of some 40,000 weights that answers for each colour what it was taught."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        processor, model = _processor(), _model()
        texts = [processor.apply_chat_template(_messages(c), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt") for c in COLOURS.values()]  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            losses = [_loss(torch, processor, model, asked, answer) for asked, answer in zip(texts, COLOURS, strict=True)]
            optimiser.zero_grad()
            sum(losses).backward()
            optimiser.step()
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever opens a connection fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield


def _processor() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "</s>", "<image>", ":", *sorted({w for t in (*COLOURS, ASK) for w in t.split()})]
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    core.pre_tokenizer = WhitespaceSplit()
    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", additional_special_tokens=["<image>"]  # noqa: S106
    )  # fmt: skip
    size = {"height": 28, "width": 28}
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    return LlavaProcessor(
        pictures, tokeniser, patch_size=14, vision_feature_select_strategy="full", num_additional_image_tokens=1, chat_template=CHAT
    )


def _model() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=32, **common)
    text = LlamaConfig(vocab_size=16, max_position_embeddings=256, eos_token_id=2, bos_token_id=None, pad_token_id=0, **common)
    cfg = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_select_strategy="full", image_seq_length=5
    )
    model = LlavaForConditionalGeneration(cfg)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def _messages(colour: tuple[int, int, int]) -> list[dict[str, Any]]:
    from PIL import Image

    picture = Image.fromarray(np.full((36, 64, 3), colour, np.uint8))
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": ASK}]}]


def _loss(torch: Any, processor: Any, model: Any, asked: Any, answer: str) -> Any:
    target = torch.tensor([[*processor.tokenizer(answer)["input_ids"], 2]])
    ids = torch.cat([asked["input_ids"], target], 1)
    labels = torch.cat([torch.full_like(asked["input_ids"], -100), target], 1)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=asked["pixel_values"], labels=labels).loss


def _item(clip_id: str, colour: tuple[int, int, int]) -> tuple[Clip, Asset, list[KeyFrame]]:
    clip = Clip(clip_id=clip_id, asset_id="a", kind="video", start_us=0, end_us=1_000_000)
    jpeg = encode_jpeg(np.full((36, 64, 3), colour, np.uint8))
    return clip, ASSET, [KeyFrame(asset_id="a", index=0, pts_us=0, width=64, height=36, jpeg=jpeg)]


def _config(folder: Path, **changes: Any) -> CaptionConfig:
    model = LocalModelConfig(folder=str(folder), instructions=ASK, answer_tokens=8, **changes)
    return CaptionConfig(sidecar=SidecarConfig(use=False), local={"tiny": model}, mix={"tiny": 1.0})


def test_each_clip_gets_what_the_model_says_of_its_own_pictures(folder: Path) -> None:
    """The adapter loads the folder without the network, the pictures reach the model, and each row has its own clip's caption, the model's
    name, the digest of its weights and that of the frames. The same batch gives the same captions again."""
    items = [_item(f"c{i}", list(COLOURS.values())[i % 2]) for i in range(4)]
    stage = CaptionClips(_config(folder))
    got = stage(items)
    assert [(g.clip_id, g.text, g.error_code) for g in got] == [(f"c{i}", list(COLOURS)[i % 2], None) for i in range(4)]
    assert {g.captioner for g in got} == {"tiny-llava"} and got[0].captioner_version.startswith(weights_digest(folder) + ":")
    assert [g.frame_digest for g in got] == [frame_digest([frames[0].jpeg]) for _, _, frames in items]
    assert stage(items) == got


def test_a_model_that_cannot_repeat_the_ids_captions_nothing(folder: Path) -> None:
    """With `answer: json` the local model's answers are checked like an endpoint's."""
    got = CaptionClips(_config(folder, answer="json"))([_item("c0", COLOURS["a blue wall"])])
    assert (got[0].text, got[0].error_code) in ((None, "malformed"), (None, "too_long"))


def test_an_answer_without_an_end_is_an_error(folder: Path) -> None:
    """What was cut at its limit of tokens is half a sentence and no caption; broken and missing pictures are errors of their clip alone."""
    model = TransformersCaptioner(LocalModelConfig(folder=str(folder), instructions=ASK, answer_tokens=2), Length())
    clip, asset, frames = _item("c0", COLOURS["a blue wall"])
    broken = Subject(clip=clip, asset=asset, frames=(replace(frames[0], jpeg=b"junk"),))
    got = model.write([Subject(clip=clip, asset=asset, frames=tuple(frames)), broken, Subject(clip=clip, asset=asset, frames=())])
    assert [getattr(g, "code", None) for g in got] == ["too_long", "bad_keyframe", "bad_keyframe"]


def test_more_pictures_than_the_model_can_take_cost_their_clip(folder: Path) -> None:
    """An error inside the model is the clip's error, with what the model said."""
    model = TransformersCaptioner(LocalModelConfig(folder=str(folder), instructions=ASK, answer_tokens=8, frames=1), Length())
    clip, asset, frames = _item("c0", COLOURS["a blue wall"])
    model._processor.patch_size = 1  # as many places for pictures as do not fit
    got = model.write([Subject(clip=clip, asset=asset, frames=tuple(frames))])
    assert getattr(got[0], "code", None) == "model_failed"


def test_a_missing_or_unsafe_folder_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    """No folder, a hub's name, a folder without safetensors, cut weights, weights that lack a part, or one that needs its own code: each says so and runs nothing."""
    from safetensors.torch import load_file, save_file

    for name in (str(tmp_path / "none"), "llava-hf/llava-1.5-7b-hf"):
        with pytest.raises(ModelError, match="expected the folder"):
            TransformersCaptioner(LocalModelConfig(folder=name), Length())
    pickled = _copy(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        TransformersCaptioner(LocalModelConfig(folder=str(pickled)), Length())
    cut = _copy(folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cut"):
        TransformersCaptioner(LocalModelConfig(folder=str(cut)), Length())
    lacking = _copy(folder, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "lm_head" not in k}, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lm_head"):
        TransformersCaptioner(LocalModelConfig(folder=str(lacking)), Length())
    coded = _copy(folder, tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text()) | {"model_type": "mine", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText"), "evil.Model")}  # fmt: skip
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\n")
    with pytest.raises(ModelError):
        TransformersCaptioner(LocalModelConfig(folder=str(coded)), Length())
    assert not (tmp_path / "ran").exists()


def test_the_digest_changes_with_any_file(folder: Path, tmp_path: Path) -> None:
    """Weights, tokeniser, template and settings all make the model."""
    copy = _copy(folder, tmp_path / "copy")
    assert weights_digest(copy) == weights_digest(folder)
    (copy / "chat_template.jinja").write_text(CHAT + " ")
    assert weights_digest(copy) != weights_digest(folder)


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to
