"""Text encoders load from local folders through the real libraries, give tokens of the right number, and are cached by content."""

import json
from pathlib import Path

import pytest
import torch

from tests.text_makers import byt5, metaclip, ul2
from training.data.text_cache import TextCache
from training.errors import TrainingError
from training.models.text import (
    ByteText,
    TextConfig,
    check_widths,
    grow_text_positions,
    load_encoders,
    prompt_of,
    quoted,
)

PROMPT = 'A red fox runs over snow past a sign that says "Bakery".'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny encoders with random weights, saved by the libraries that real ones are saved with."""
    root = tmp_path_factory.mktemp("text")
    before = torch.random.get_rng_state()
    made = {"ul2": ul2(root / "ul2"), "byt5": byt5(root / "byt5"), "metaclip": metaclip(root / "metaclip")}
    torch.random.set_rng_state(before)
    return made


def config(folders: dict[str, Path], **changes: object) -> TextConfig:
    """All four encoders."""
    return TextConfig(**{**{n: str(p) for n, p in folders.items()}, "bytes_width": 10, **changes})


def test_every_encoder_reads_a_prompt(folders: dict[str, Path]) -> None:
    """Each gives (tokens, width) with its end token: words for UL2, bytes of the quoted text for ByT5, word pieces for MetaCLIP."""
    encoders = load_encoders(config(folders))
    assert [(e.name, e.width) for e in encoders] == [("ul2", 16), ("byt5", 16), ("metaclip", 12), ("bytes", 10)]
    tokens = {e.name: e.encode([PROMPT])[0] for e in encoders}
    assert all(t.ndim == 2 and torch.isfinite(t).all() for t in tokens.values())
    assert len(tokens["byt5"]) == len("Bakery") + 1
    assert len(tokens["ul2"]) == 14 + 1 and len(tokens["bytes"]) == 15 + 1
    assert 14 <= len(tokens["metaclip"]) <= 20
    check_widths(encoders, {"ul2": 16, "byt5": 16, "metaclip": 12, "bytes": 10})
    with pytest.raises(TrainingError, match="expected encoders of widths"):
        check_widths(encoders, {"ul2": 16})


def test_metaclip_tokens_are_the_towers_own(folders: dict[str, Path]) -> None:
    """Within 77 tokens, the state of the end token, projected, is what open_clip itself says of the prompt."""
    import open_clip
    from safetensors.torch import load_file

    described = json.loads((folders["metaclip"] / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.model.CLIP(**described).eval()
    model.load_state_dict(load_file(folders["metaclip"] / "open_clip_model.safetensors"))
    ids = open_clip.SimpleTokenizer()([PROMPT])
    short = load_encoders(config(folders, metaclip_tokens=77))[2].encode([PROMPT])[0]
    with torch.no_grad():
        assert torch.allclose(short[-1] @ model.text_projection, model.encode_text(ids)[0], atol=1e-5)


def test_long_prompts_are_read_by_grown_positions(folders: dict[str, Path]) -> None:
    """Of 200 words MetaCLIP reads 256 tokens at most and more than 77; the first 20 positions stay, the last stands at the end."""
    long = " ".join(f"word{i % 7}" for i in range(200))
    assert 77 < len(load_encoders(config(folders))[2].encode([long])[0]) <= 256
    table = torch.randn(77, 4, generator=torch.Generator().manual_seed(0))
    grown = grow_text_positions(table, 256)
    assert grown.shape == (256, 4) and torch.equal(grown[:20], table[:20]) and torch.allclose(grown[-1], table[-1])
    assert torch.equal(grow_text_positions(table, 77), table)


def test_the_empty_prompt_has_a_token(folders: dict[str, Path]) -> None:
    """What guidance steers away from is encoded by every encoder, and is never nothing."""
    assert all(len(e.encode([""])[0]) >= 1 for e in load_encoders(config(folders)))


def test_tokens_do_not_depend_on_company(folders: dict[str, Path]) -> None:
    """A prompt's tokens are the same bits alone and beside others: what is cached is a function of the prompt."""
    for encoder in load_encoders(config(folders)):
        together = encoder.encode(["a fox", PROMPT, ""])
        assert all(torch.equal(a, encoder.encode([p])[0]) for a, p in zip(together, ["a fox", PROMPT, ""], strict=True)), encoder.name


def test_prompts_are_cut_at_their_length(folders: dict[str, Path]) -> None:
    """No encoder gives more tokens than its limit."""
    cut = config(folders, ul2_tokens=5, byt5_tokens=4, metaclip_tokens=6, bytes_tokens=3)
    assert [len(e.encode([PROMPT])[0]) for e in load_encoders(cut)] == [5, 4, 6, 3]


@pytest.mark.parametrize("name", ["ul2", "byt5", "metaclip"])
def test_missing_and_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A folder without safetensors is named with what lies there; a pickle is never read; a missing folder says what was expected."""
    import shutil

    other = tmp_path / name
    shutil.copytree(folders[name], other)
    for path in other.glob("*.safetensors"):
        path.rename(other / "pytorch_model.bin")
    encoder = next(e for e in load_encoders(config({**folders, name: other})) if e.name == name)
    with pytest.raises(TrainingError, match=r"expected .* weights as \*\.safetensors, found \['pytorch_model\.bin'\]"):
        encoder.encode([PROMPT])
    with pytest.raises(TrainingError, match="expected the description of"):
        load_encoders(config({**folders, name: tmp_path / "nowhere"}))


def test_incomplete_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """A tensor that is missing from the file is named; the libraries would have left it random."""
    import shutil

    from safetensors.torch import load_file, save_file

    for number, (name, file) in enumerate((("ul2", "model"), ("metaclip", "open_clip_model"))):
        other = tmp_path / name
        shutil.copytree(folders[name], other)
        state = load_file(other / f"{file}.safetensors")
        lost = next(n for n in state if "encoder.block.1" in n or ("resblocks.1" in n and not n.startswith("visual.")))
        save_file({n: v for n, v in state.items() if n != lost}, other / f"{file}.safetensors", metadata={"format": "pt"})
        with pytest.raises(TrainingError, match=lost.removeprefix("text.").replace(".", r"\.")):
            load_encoders(config({**folders, name: other}))[2 * number].encode([PROMPT])


def test_the_weights_are_part_of_the_key(folders: dict[str, Path], tmp_path: Path) -> None:
    """One changed bit of the weights, or another length, gives another key."""
    import shutil

    other = tmp_path / "byt5"
    shutil.copytree(folders["byt5"], other)
    path = other / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    keys = [load_encoders(c)[1].key for c in (config(folders), config({**folders, "byt5": other}), config(folders, byt5_tokens=9))]
    assert len(set(keys)) == 3 and keys[0] == load_encoders(config(folders))[1].key


class Counting(ByteText):
    """The byte encoder, stored on disk, counting what it is asked."""

    stored = True
    asked = 0

    def encode(self, prompts):
        """As the byte encoder."""
        self.asked += len(prompts)
        return super().encode(prompts)


def test_each_prompt_is_encoded_once(tmp_path: Path) -> None:
    """A second cache over the same folder encodes nothing; a damaged file is made again; other weights find nothing."""
    prompts = ["a dog", "a cat on a mat", "a dog"]
    first, second, other = Counting(8, 16), Counting(8, 16), Counting(8, 12)
    tokens, masks = TextCache([first], tmp_path).batch(prompts)
    assert first.asked == 2
    again, _ = TextCache([second], tmp_path).batch(prompts)
    assert second.asked == 0 and torch.equal(tokens["bytes"], again["bytes"])
    assert tokens["bytes"].shape == (3, 6, 8) and masks["bytes"].sum(1).tolist() == [3, 6, 3] and not tokens["bytes"][0, 3:].any()
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"cut")
    assert torch.equal(TextCache([second], tmp_path).batch(prompts)[0]["bytes"], tokens["bytes"]) and second.asked == 1
    TextCache([other], tmp_path).batch(prompts)
    assert other.asked == 2


def test_byte_tokens_tell_words_apart() -> None:
    """The same word has the same vector but for its place; words alike in spelling are nearer than others; nothing random is read."""
    before = torch.random.get_rng_state()
    dog, dogs, tree = (ByteText(256, 8).encode([w])[0][0] for w in ("dog", "dogs", "tree"))
    assert torch.equal(before, torch.random.get_rng_state())
    similar = torch.nn.functional.cosine_similarity
    assert similar(dog, dogs, 0) > similar(dog, tree, 0) + 0.1
    assert torch.equal(dog, ByteText(256, 8).encode(["DOG runs"])[0][0])


def test_prompts_say_the_rate_and_quotes_are_found() -> None:
    """A video's prompt begins with its rate, a picture's does not; quotes of three kinds are found and apostrophes are not quotes."""
    assert prompt_of("A dog.", 23.976) == "FPS-24 A dog." and prompt_of("A dog.", None) == "A dog." and prompt_of("", 16.0) == "FPS-16"
    assert quoted('a "big sign" and “small one” and «third»') == "big sign small one third"
    assert quoted("the dog's bone isn't here") == ""
