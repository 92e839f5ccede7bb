"""A takedown reaches what was made of the clips outside the dataset: latents, text tokens, fetched payloads, prompts of training runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from manifests.events import Exposure
from manifests.records import Clip
from manifests.schema import to_table
from manifests.tables import ManifestStore
from manifests.takedown import Selector, survey
from pipelines.config import load
from pipelines.encode import folders_of, register
from pipelines.takedown import execute
from pipelines.takedown_caches import scrub_caches
from pipelines.takedown_case import Request
from pipelines.training import with_absolute_caches
from tests.takedown_maker import make_place
from training.conditions import PROMPTS, load_prompts, write_prompts
from training.config import TrainConfig
from training.data.cache import FolderCache, path_in
from training.data.config import DataConfig
from training.data.index import Sample, load_samples
from training.data.latent_cache import LatentCache
from training.data.text_cache import TextCache, name_of
from training.encode import Encoded
from training.pictures import forget_pictures, note_shown

DATA = DataConfig(size_px=32, resize_px=32, n_frames=8)


class Encoder:
    """Tokens that say how long the prompt is."""

    name, width, stored, key = "length", 2, True, "0" * 64

    def encode(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """(1, 2) for each."""
        return [torch.full((1, 2), float(len(p))) for p in prompts]


@dataclass(frozen=True)
class Place:
    """A dataset whose kept clips are in every cache, and one asset's clips among them."""

    store: ManifestStore
    asset_id: str
    clips: tuple[Clip, ...]
    samples: list[Sample]
    run: Path
    latents: Path
    texts: tuple[Path, Path]
    payloads: Path

    @property
    def left(self) -> dict[str, set[str]]:
        """The clips of which something is in each place."""
        cache, (encoded, used) = LatentCache(self.latents, "f" * 64, "fp32"), self.texts
        prompts, here = load_prompts(self.run), self.samples
        return {
            "latents": {s.clip_id for s in here if cache.has(s, DATA)},
            "encoded text": {s.clip_id for s in here if not TextCache([Encoder()], encoded).missing([prompt(s)])},
            "used text": {s.clip_id for s in here if not TextCache([Encoder()], used).missing([other_prompt(s)])},
            "payloads": {s.clip_id for s in here if path_in(self.payloads, s.sha256).exists()},
            "prompts": {clip for clip, text in prompts.items() if text},
        }


def prompt(sample: Sample) -> str:
    """What `dailies encode text` read."""
    return f"FPS-24 {sample.clip_id}"


def other_prompt(sample: Sample) -> str:
    """What the training run read, at another rate."""
    return f"FPS-12 {sample.clip_id}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The dataset, encoded and trained on in folders beside it."""
    made = make_place(tmp_path / "dataset", 24)
    store, samples = made.store, load_samples(made.root, made.store.version())
    run, latents, texts, payloads = tmp_path / "run", tmp_path / "latents", (tmp_path / "text", tmp_path / "cache"), tmp_path / "payloads"
    register(made.root, latents, "latents", {}, [(s.clip_id, Encoded(key=s.clip_id, status="planned")) for s in samples])
    register(made.root, texts[0], "text", {}, [(s.clip_id, Encoded(key=name_of(prompt(s)), status="planned")) for s in samples])
    settings = {"flow": {"text_cache": str(texts[1]), "latents_folder": None}, "data": {"cache_folder": str(payloads)}}
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"config": settings}))
    write_prompts(run, {s.clip_id: other_prompt(s) for s in samples})
    note_shown(run, [made.clips[0].clip_id])
    for step in (0, 8):
        (run / "pictures" / f"step-{step:08d}.png").write_bytes(b"picture")
    for s in samples:
        LatentCache(latents, "f" * 64, "fp32").write(s, DATA, torch.zeros(4, 1, 4, 4))
        FolderCache(payloads, 10).put(s.sha256, b"payload")
    TextCache([Encoder()], texts[0]).batch([prompt(s) for s in samples])
    TextCache([Encoder()], texts[1]).batch([other_prompt(s) for s in samples])
    words = dict.fromkeys(("plan_digest", "plan_json", "rolling_digest"), "x")
    exposures = [
        Exposure(
            run_no=1, checkpoint="checkpoints/step-8", run_path=str(path), stage="t2v", manifest_version=0, first_step=0, end_step=8,
            n_samples=64, exceptions_json="[]", **words,
        )
        for path in (run, tmp_path / "gone")
    ]  # fmt: skip
    store.commit("c" * 32, append={"exposures": to_table(Exposure, exposures)})
    return Place(store, made.asset.asset_id, made.clips, samples, run, latents, texts, payloads)


def test_caches_and_runs_forget_what_was_taken_down(place: Place) -> None:
    """After the takedown nothing of the asset's clips is in any of them, all of the others is, and the receipt counts what went."""
    everything, mine = {s.clip_id for s in place.samples}, {c.clip_id for c in place.clips}
    gone = everything & mine
    assert gone and gone < everything and place.left == dict.fromkeys(place.left, everything)
    request = Request(selectors=(Selector(kind="asset", value=place.asset_id),), basis="copyright", reason="test")
    radius = survey(place.store, request.selectors, lambda exposure, clip: None)
    _, receipt = execute(place.store.root, request, radius, None, lambda step: None)
    assert place.left == dict.fromkeys(place.left, everything - mine)
    n = len(gone)
    expected = {"latents": n, "text_tokens": 2 * n, "payloads": n, "pictures": 2, "prompts": n}
    assert json.loads(receipt.read_bytes())["done"]["caches"] == expected


def test_pictures_go_with_whom_they_show(tmp_path: Path) -> None:
    """Sheets of held-out clips go when one of these clips does, and when nobody knows whom they show; those of other clips stay, and a run
    that goes on adds to what it said."""
    names = ("mine", "other", "unknown", "older", "none", "no run")
    for name in names:
        (tmp_path / name / "pictures").mkdir(parents=True)
        if name != "no run":
            (tmp_path / name / "run.json").write_text("{}")
    note_shown(tmp_path / "mine", ["a"])
    note_shown(tmp_path / "mine", ["b"])
    note_shown(tmp_path / "other", ["c"])
    for name in ("mine", "other", "unknown", "older", "no run"):
        (tmp_path / name / "pictures" / "step-00000008.png").write_bytes(b"picture")
    (tmp_path / "mine" / "pictures" / "step-00000008-0-held_out.flac").write_bytes(b"sound")
    (tmp_path / "mine" / "pictures" / "own.jpg").write_bytes(b"somebody's")
    note_shown(tmp_path / "older", ["c"])  # goes on with pictures of whom nobody knows
    found = {name: forget_pictures(tmp_path / name, {"a", "d"}) for name in (*names, "absent")}
    assert found == {"mine": 2, "other": 0, "unknown": 1, "older": 1, "none": 0, "no run": 0, "absent": 0}
    assert [p.name for p in sorted((tmp_path / "other" / "pictures").iterdir())] == ["shown.json", "step-00000008.png"]
    assert [p.name for p in (tmp_path / "mine" / "pictures").iterdir()] == ["own.jpg"]


def test_forgetting_again_finds_nothing(place: Place) -> None:
    """A takedown that was killed does all again: what is gone is gone, and a run folder that is not there any more is no error."""
    mine = {c.clip_id for c in place.clips}
    assert sum(scrub_caches(place.store, mine).values()) > 0
    assert set(scrub_caches(place.store, mine).values()) == {0}
    assert {what for _, what in folders_of(place.store)} == {"latents", "text"} and (place.run / PROMPTS).exists()


def test_a_run_names_its_caches_in_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders given relative to where training was started are found by a takedown that is started elsewhere; other settings stay."""
    monkeypatch.chdir(tmp_path)
    settings = load(TrainConfig, "train/t2v_256", "paper", ["flow.text_cache=cache/text", "data.cache_folder=near"])
    found = with_absolute_caches(settings)
    assert found.flow.text_cache == str(tmp_path / "cache" / "text") and found.data.cache_folder == str(tmp_path / "near")
    assert found.flow.latents_folder is None and found.optim == settings.optim
    plain = load(TrainConfig, "train/tae", "tiny", [])
    assert with_absolute_caches(plain) == plain
