"""An AudioSet tagger from local files: how likely each of the 527 classes is heard.

Any network that takes mono sound, float32 [1, n] at `rate_hz`, and gives [1, 527] fits: PANNs, EfficientAT, ConvNeXt or BEATs, exported
as TorchScript (.pt, .ts) or ONNX (.onnx) with its spectrogram inside. The list of classes is AudioSet's `class_labels_indices.csv`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curation.adapters.weights import AnswerError, WeightsError, digest_of, load_torchscript, need_file
from curation.audioset import N_CLASSES, group, read_names
from curation.soundtrack import RATE_HZ, Samples

_WHAT = "a TorchScript or ONNX file of an AudioSet tagger (mono sound [1, n] -> [1, 527]), e.g. PANNs CNN14"
_CSV = "AudioSet's list of classes, class_labels_indices.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerConfig:
    """Which network, and where it lies. `weights=None` means: not run."""

    weights: str | None = None
    classes: str | None = None
    rate_hz: int = 16_000  # what the network was trained at; PANNs: 32 000. The copy holds nothing above 8 kHz
    outputs: Literal["probabilities", "logits"] = "probabilities"
    window_us: int = 10_000_000  # AudioSet's clips last 10 s
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The likeliest class of each group, 0..1."""

    voice: float
    speech: float
    singing: float
    music: float
    sound: float


class AudioTagger:
    """Tags sound; loaded once."""

    def __init__(self, cfg: TaggerConfig) -> None:
        if cfg.weights is None or cfg.classes is None:
            raise WeightsError(
                f"tagger: expected weights=<file> and classes=<file>, found {cfg.weights} and {cfg.classes}; needed: {_WHAT}; {_CSV}"
            )
        weights = need_file(cfg.weights, "tagger.weights", _WHAT)
        try:
            self._groups = group(read_names(need_file(cfg.classes, "tagger.classes", _CSV)))
        except ValueError as e:
            raise WeightsError(f"tagger.classes: {e}") from e
        self.cfg = cfg
        self._onnx: Any = None
        self._torch: Any = None
        if weights.suffix == ".onnx":
            self._onnx = _onnx_session(weights)
        else:
            self._torch = load_torchscript(weights, "tagger.weights", cfg.device)
        self.name = f"{weights.stem}:{digest_of(weights)}"

    def tag(self, sound: Samples) -> Tags:
        """The groups' scores of mono sound at 16 kHz: over windows of 10 s the likeliest one decides, as one voice is a voice.

        Raises AnswerError where one is no number.
        """
        sound = np.pad(sound, (0, max(0, RATE_HZ - len(sound))))  # networks want some frames of spectrum
        size = round(self.cfg.window_us * RATE_HZ / 1_000_000)
        windows = [sound[at : at + size] for at in range(0, len(sound), size)]
        if len(windows) > 1 and len(windows[-1]) < size:  # the last window is whole: it reaches back
            windows[-1] = sound[-size:]
        likely = np.max([self._window(w) for w in windows], axis=0)
        groups = self._groups
        return Tags(
            voice=_most(likely, groups.voice),
            speech=_most(likely, groups.speech),
            singing=_most(likely, groups.singing),
            music=_most(likely, groups.music),
            sound=_most(likely, groups.sound),
        )

    def _window(self, sound: Samples) -> npt.NDArray[np.float32]:
        shaped = resample(sound, self.cfg.rate_hz)[None]
        if self._onnx is not None:
            out = np.asarray(self._onnx.run(None, {self._onnx.get_inputs()[0].name: shaped})[0], np.float32)
        else:
            import torch

            with torch.inference_mode():
                out = self._torch(torch.from_numpy(shaped).to(self.cfg.device)).float().cpu().numpy()
        if out.shape != (1, N_CLASSES):
            raise WeightsError(f"tagger {self.name}: expected outputs [1, {N_CLASSES}], found {out.shape}")
        if not np.isfinite(out).all():
            raise AnswerError(f"tagger {self.name}: expected finite outputs, found {(~np.isfinite(out)).sum()} of {N_CLASSES} that are not")
        return np.asarray(1 / (1 + np.exp(-out[0])) if self.cfg.outputs == "logits" else out[0], np.float32)


def resample(sound: Samples, rate_hz: int) -> Samples:
    """Mono sound at 16 kHz brought to another rate, for networks trained at 32 or 48 kHz."""
    if rate_hz == RATE_HZ:
        return np.ascontiguousarray(sound)
    from av import AudioFrame, AudioResampler

    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
    frame.sample_rate = RATE_HZ
    resampler = AudioResampler("fltp", "mono", rate_hz)
    return np.concatenate([p.to_ndarray()[0] for p in [*resampler.resample(frame), *resampler.resample(None)]])


def _most(likely: npt.NDArray[np.float32], among: npt.NDArray[np.bool_]) -> float:
    return float(np.clip(likely[among].max(), 0, 1))


def _onnx_session(path: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the engine that places the workers decides how many cores are used
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime raises many types on a foreign file; each is the same news
        raise WeightsError(f"tagger.weights: expected an ONNX file at {path}, found {str(e)[:200]}") from e
