"""Silero's voice-activity network (MIT) by onnxruntime: how likely each 32 ms of sound holds speech.

The weights travel inside the `silero-vad` wheel; nothing is downloaded. The package itself is not imported (that would load torch):
its form for whole sequences (`silero_vad_16k_sequence.onnx`, since 6.2.3) runs hundreds of frames in one call.
"""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curation.adapters.weights import WeightsError
from curation.soundtrack import Samples

MODEL = "silero_vad_16k_sequence.onnx"
FRAME = 512
"""Samples a probability stands for: 32 ms at 16 kHz."""
CONTEXT = 64
"""Samples of the frame before that the network wants to see again."""
BLOCK = 512
"""Frames in one call, 16 s: a clip is one call, memory stays at some 30 MB."""


class SileroVad:
    """The network, loaded once; one thread, so that the engine that places the workers decides how many cores are used."""

    def __init__(self, path: str | None = None) -> None:
        import onnxruntime

        file = Path(path) if path else _packaged()
        if not file.is_file():
            raise WeightsError(f"speech: expected Silero's {MODEL} at {file}, found no file; it is in the wheel of silero-vad >= 6.2.3")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime raises many types on a foreign file; each is the same news
            raise WeightsError(f"speech: expected Silero's {MODEL} at {file}, found {str(e)[:200]}") from e
        names = {i.name for i in self._session.get_inputs()}
        if names != {"input", "h", "c"}:
            raise WeightsError(f"speech: expected a network of input, h and c at {file}, found {', '.join(sorted(names))}")
        self.name = f"silero:{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"

    def probabilities(self, sound: Samples) -> npt.NDArray[np.float32]:
        """The probability of speech in each frame of mono sound [n] at 16 kHz: float32 [ceil(n / FRAME)]. Its memory starts empty."""
        n = -(-len(sound) // FRAME)
        padded = np.zeros(CONTEXT + n * FRAME, np.float32)
        padded[CONTEXT : CONTEXT + len(sound)] = sound
        seen = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
        hidden = cell = np.zeros((1, 1, 128), np.float32)
        found = []
        for at in range(0, n, BLOCK):
            block = {"input": np.ascontiguousarray(seen[at : at + BLOCK]), "h": hidden, "c": cell}
            values, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], block)
            found.append(np.asarray(values, np.float32).reshape(-1))
        return np.concatenate(found) if found else np.zeros(0, np.float32)


def _packaged() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    folder = next(iter(spec.submodule_search_locations or []), None) if spec is not None else None
    if folder is None:
        raise WeightsError("speech: expected the package silero-vad >= 6.2.3, found none; install the extra 'dailies[curate]'")
    return Path(folder) / "data" / MODEL
