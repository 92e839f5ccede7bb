"""What a model of sound makes, for eye and ear: spectrograms of originals above those of what was made, and both as FLAC to listen to."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manifests.files import write_atomic
from training.data.sound import RATE_HZ
from training.models.spectral import mel_spectrogram

_GAP_PX = 4
_RANGE_DB = 70.0
_MAX_WIDTH_PX = 1500


def write_sounds(path: Path, originals: Sequence[Tensor], made: Sequence[Tensor]) -> None:
    """`path` (a PNG) shows each sound's mel spectrogram above that of what was made of it; `<path without suffix>-<n>-held_out.flac` and
    `-made.flac` beside it can be heard. Sounds are (N,) in [-1, 1] at 48 kHz."""
    from PIL import Image

    rows = []
    for i, (original, output) in enumerate(zip(originals, made, strict=True)):
        for name, sound in (("held_out", original), ("made", output)):
            write_atomic(path.with_name(f"{path.stem}-{i}-{name}.flac"), encode_flac(sound.float().cpu().numpy()))
            rows.append(_picture(sound.float().cpu()))
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(row, ((0, _GAP_PX), (0, width - row.shape[1])), constant_values=255) for row in rows])
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, "PNG")
    write_atomic(path, sink.getvalue())


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """The mono samples (N,) in [-1, 1] as a FLAC of 16 bits at 48 kHz."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        whole = np.round(samples.clip(-1.0, 1.0) * 32767).astype(np.int16)[None]
        for at in range(0, whole.shape[1], 4096):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole[:, at : at + 4096]), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def _picture(sound_N: Tensor) -> NDArray[np.uint8]:
    """80 mel bands as rows, low ones at the bottom, 10 ms a column; white is 70 dB above black, from -60 dB on."""
    hop = max(480, len(sound_N) // _MAX_WIDTH_PX)
    with torch.no_grad():
        mel = mel_spectrogram(sound_N[None], 2048, 80, hop)[0]
    level = 10 * mel.clamp_min(1e-10).square().log10()
    return ((level + 60) / _RANGE_DB * 255).clamp(0, 255).byte().flip(0).repeat_interleave(2, 0).numpy()
