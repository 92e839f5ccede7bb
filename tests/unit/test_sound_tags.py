"""The networks on sound, loaded by the real code from small weights that the tests make; clear errors where there are none."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from curation import audioset  # noqa: E402
from curation.adapters.audio_quality import SoundQuality, SoundQualityConfig  # noqa: E402
from curation.adapters.audio_tagger import AudioTagger, TaggerConfig, resample  # noqa: E402
from curation.adapters.audio_video import AgreementConfig, AudioVideoAgreement  # noqa: E402
from curation.adapters.weights import WeightsError  # noqa: E402
from curation.keyframes import KeyFrame, encode_jpeg  # noqa: E402
from curation.sound_tags import COLUMNS, SoundTagsConfig, TagSound  # noqa: E402
from tests.onnx_maker import mean_tagger  # noqa: E402
from tests.sound_makers import copy_of, sound_clip, tone  # noqa: E402

_LISTED = [
    n.strip()
    for group in (audioset._SPEECH, audioset._SINGING, audioset._OTHER_VOICE, audioset._MUSIC, audioset._NOTHING)
    for n in group.replace("\n", " ").split(";")
]
NAMES = [*_LISTED, "Rain", *(f"Thing {i}" for i in range(audioset.N_CLASSES - len(_LISTED) - 1))]


class Tagger(torch.nn.Module):
    """Loud sound is speech, all sound is rain at 0.73, else nothing; as logits or probabilities."""

    def __init__(self, logits: bool) -> None:
        super().__init__()
        weight, bias = parts()
        self.weight, self.bias = torch.nn.Parameter(torch.from_numpy(weight)), torch.nn.Parameter(torch.from_numpy(bias))
        self.logits: bool = logits

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """[1, n] -> [1, 527]."""
        out = sound.abs().mean(1, keepdim=True) * self.weight + self.bias
        return out if self.logits else torch.sigmoid(out)


class Joint(torch.nn.Module):
    """The embeddings agree when the picture is as bright as the sound is loud."""

    def forward(self, pictures: torch.Tensor, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, frames, 3, s, s] and [1, n] -> [1, 2] each."""
        bright = pictures.mean().reshape(1, 1) * 0.27 + 0.46
        loud = sound.abs().mean().reshape(1, 1) * 2
        return torch.cat([bright, 1 - bright], 1), torch.cat([loud, 1 - loud], 1)


class Rater(torch.nn.Module):
    """A quality that grows with loudness, beyond the scale."""

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """[1, n] -> [1, 1]."""
        return sound.abs().mean(1, keepdim=True) * 40


def parts() -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the tagger."""
    weight, bias = np.zeros(audioset.N_CLASSES, np.float32), np.full(audioset.N_CLASSES, -6, np.float32)
    weight[NAMES.index("Speech")], bias[NAMES.index("Rain")] = 40, 1
    return weight, bias


@pytest.fixture
def classes(tmp_path: Path) -> str:
    """A list of classes in AudioSet's layout, in no particular order of rows."""
    path = tmp_path / "class_labels_indices.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["index", "mid", "display_name"])
        out.writerows([i, f"/m/{i}", NAMES[i]] for i in reversed(range(len(NAMES))))
    return str(path)


def script(module: torch.nn.Module, path: Path) -> str:
    """The module as a TorchScript file."""
    torch.jit.script(module.eval()).save(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["torchscript", "logits", "onnx"])
def test_a_tagger_scores_the_groups(kind: str, classes: str, tmp_path: Path) -> None:
    """From TorchScript, TorchScript of logits and ONNX alike: a loud sound is a voice, a quiet one is not, and it rains in both."""
    if kind == "onnx":
        weights = str(tmp_path / "t.onnx")
        Path(weights).write_bytes(mean_tagger(*parts()))
    else:
        weights = script(Tagger(kind == "logits"), tmp_path / "t.pt")
    cfg = TaggerConfig(weights=weights, classes=classes, outputs="logits" if kind == "logits" else "probabilities")
    tagger = AudioTagger(cfg)
    loud, quiet = tagger.tag(tone(440, 3, 16000)), tagger.tag(tone(440, 3, 16000, 0.01))
    assert loud.voice == loud.speech == pytest.approx(0.999, abs=0.01)
    assert quiet.voice == pytest.approx(0, abs=0.02)
    assert (loud.sound, quiet.sound) == (pytest.approx(0.731, abs=0.001), pytest.approx(0.731, abs=0.001))
    assert loud.music == loud.singing == pytest.approx(0.0025, abs=0.001)
    assert tagger.name.startswith("t:")


def test_a_voice_in_one_window_is_a_voice(classes: str, tmp_path: Path) -> None:
    """Ten quiet seconds and two loud ones: the last window reaches back, and the likeliest window decides."""
    tagger = AudioTagger(TaggerConfig(weights=script(Tagger(False), tmp_path / "t.pt"), classes=classes))
    sound = np.concatenate([tone(440, 10, 16000, 0.001), tone(440, 2, 16000, 1.0)])
    assert tagger.tag(sound).voice == pytest.approx(1 / (1 + np.exp(6 - 40 * 0.2 * 2 / np.pi)), abs=0.02)


def test_the_grouping_is_complete() -> None:
    """47 of AudioSet's classes are voice, 136 music, no class is both, and a list without one of them is refused."""
    assert (len(audioset.VOICE), len(audioset.MUSIC)) == (47, 136)
    assert not audioset.VOICE & audioset.MUSIC and not (audioset.VOICE | audioset.MUSIC) & audioset.NOTHING
    groups = audioset.group(NAMES)
    assert (groups.voice | groups.music | groups.sound).sum() == len(NAMES) - len(audioset.NOTHING)
    with pytest.raises(ValueError, match="missing 1: speech"):
        audioset.group([n for n in NAMES if n != "Speech"])


def test_missing_files_say_what_to_fetch(classes: str, tmp_path: Path) -> None:
    """No path, no file, a foreign file, another list, other outputs: each error says what was expected and where."""
    with pytest.raises(WeightsError, match=r"class_labels_indices\.csv"):
        AudioTagger(TaggerConfig())
    with pytest.raises(WeightsError, match="fetch it on a machine with a network and put it there"):
        AudioTagger(TaggerConfig(weights=str(tmp_path / "none.pt"), classes=classes))
    for name in ("bad.pt", "bad.onnx"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(WeightsError, match="expected"):
            AudioTagger(TaggerConfig(weights=str(tmp_path / name), classes=classes))
    good = script(Tagger(False), tmp_path / "t.pt")
    (tmp_path / "few.csv").write_text("index,mid,display_name\n0,/m/0,Speech\n")
    with pytest.raises(WeightsError, match="classes 0 to 526"):
        AudioTagger(TaggerConfig(weights=good, classes=str(tmp_path / "few.csv")))
    other = AudioTagger(TaggerConfig(weights=script(Rater(), tmp_path / "r.pt"), classes=classes))
    with pytest.raises(WeightsError, match=r"\[1, 527\]"):
        other.tag(tone(440, 1, 16000))
    with pytest.raises(WeightsError, match="joint model"):
        AudioVideoAgreement(AgreementConfig())
    with pytest.raises(WeightsError, match="quality predictor"):
        SoundQuality(SoundQualityConfig(weights=str(tmp_path / "none.pt")))


def test_sound_is_brought_to_the_networks_rate() -> None:
    """At 32 kHz a tone of 440 Hz is still one, twice as many samples long."""
    found = resample(tone(440, 1, 16000), 32000)
    assert len(found) == 32000
    assert np.allclose(found[1000:-1000], tone(440, 1, 32000)[1000:-1000], atol=1e-3)


def test_each_network_fills_its_columns(classes: str, tmp_path: Path) -> None:
    """With all three: every column; sound files have no agreement with pictures; without sound all are null; errors have a reason."""
    cfg = SoundTagsConfig(
        tagger=TaggerConfig(weights=script(Tagger(False), tmp_path / "t.pt"), classes=classes),
        agreement=AgreementConfig(weights=script(Joint(), tmp_path / "j.pt"), size_px=32),
        quality=SoundQualityConfig(weights=script(Rater(), tmp_path / "q.pt")),
    )
    assert cfg.wanted and not SoundTagsConfig().wanted
    jpeg = encode_jpeg(np.full((40, 60, 3), 255, np.uint8))
    frames = [KeyFrame(asset_id="a", index=0, pts_us=0, width=60, height=40, jpeg=jpeg)]
    rows = copy_of(np.full(64000, 0.5, np.float32))
    video = sound_clip(0, 4_000_000, kind="video")
    scores = TagSound(cfg)([(video, frames, rows), (replace(video, kind="audio"), [], rows), (video, frames, None), (video, [], rows)])
    assert all(getattr(scores[0], c) is not None for c in COLUMNS)
    assert scores[0].audio_video_similarity == pytest.approx(1, abs=0.01)
    assert scores[0].audio_quality == 10
    assert scores[1].audio_video_similarity is None and scores[1].voice_score is not None
    assert all(getattr(scores[2], c) is None for c in (*COLUMNS, "error_code"))
    assert scores[3].error_code == "bad_keyframe"
    broken = TagSound(cfg)([(video, frames, [replace(rows[0], flac=b"fLaC")])])[0]
    assert broken.error_code == "bad_sound"


def test_without_weights_nothing_is_scored() -> None:
    """No network, no value: the columns are null and nothing is loaded."""
    rows = copy_of(tone(440, 4, 16000))
    score = TagSound(SoundTagsConfig())([(sound_clip(0, 4_000_000), [], rows)])[0]
    assert all(getattr(score, c) is None for c in (*COLUMNS, "error_code"))


@pytest.mark.parametrize("network", ["tagger", "agreement", "quality"])
def test_an_answer_that_is_no_number_is_its_clips_error(network: str, classes: str, tmp_path: Path) -> None:
    """A network that answers one silent clip with nan leaves that clip with model_failed, and the next one with its scores."""

    class NoNumberOfSilence(torch.nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.n: int = {"tagger": audioset.N_CLASSES, "quality": 1}.get(kind, 2)

        def forward(self, sound: torch.Tensor) -> torch.Tensor:
            loud = sound.abs().mean().reshape(1, 1)
            return (loud / loud).expand(1, self.n)

    class Both(torch.nn.Module):
        def forward(self, pictures: torch.Tensor, sound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            loud = sound.abs().mean().reshape(1, 1)
            return loud / loud, pictures.mean().reshape(1, 1)

    weights = script(Both() if network == "agreement" else NoNumberOfSilence(network), tmp_path / "n.pt")
    made = {"tagger": TaggerConfig, "agreement": AgreementConfig, "quality": SoundQualityConfig}[network]
    settings = {"classes": classes} if network == "tagger" else {}
    stage = TagSound(SoundTagsConfig(**{network: made(weights=weights, **settings)}))
    picture = encode_jpeg(np.full((36, 64, 3), 200, np.uint8))
    frames = [KeyFrame(asset_id="a", index=0, pts_us=0, width=64, height=36, jpeg=picture)]
    silent, heard = (copy_of(np.zeros(16000 * 5, np.float32)), copy_of(tone(440, 5, 16000)))
    bad, good = stage([(sound_clip(0, 5_000_000, kind="video"), frames, silent), (sound_clip(0, 5_000_000, kind="video"), frames, heard)])
    assert bad.error_code == "model_failed" and "expected" in (bad.error_detail or "") and {getattr(bad, c) for c in COLUMNS} == {None}
    assert good.error_code is None and {getattr(good, c) for c in COLUMNS} != {None}
