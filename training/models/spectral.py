"""What sounds are compared by: mel spectrograms, the scale-invariant ratio of signal to distortion. Plain torch, no learned part.

Shapes: B sounds, N samples at 48 kHz, M mel bands, T frames.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

RATE_HZ = 48_000

MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
"""Samples of each window: the scales of the Descript audio codec's loss (Kumar et al. 2023)."""

_SAMPLES_PER_BAND = 6.4
"""Of a window: 32 samples have 5 mel bands, 2048 have 320, as there."""

MAX_SI_SDR_DB, MIN_SI_SDR_DB = 100.0, -100.0
"""Bounds, so that a mean over sounds stays finite whatever one of them is."""


def mel_spectrogram(x_BN: Tensor, window: int, bands: int, hop: int | None = None) -> Tensor:
    """Magnitudes in mel bands, (B, M, T): Hann windows of so many samples, a quarter of them apart unless `hop` says otherwise."""
    bank = _mel_bank(window, bands).to(x_BN.device, x_BN.dtype)
    return bank @ magnitudes(x_BN, window, hop or window // 4)


def magnitudes(x_BN: Tensor, window: int, hop: int) -> Tensor:
    """Magnitudes of the short-time Fourier transform, (B, window / 2 + 1, T); a sine of amplitude 1 has about 1/2."""
    spectrum = spectra(x_BN, window, hop)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()  # the gradient of a plain modulus at zero is not a number


def spectra(x_BN: Tensor, window: int, hop: int) -> Tensor:
    """The complex short-time Fourier transform, (B, window / 2 + 1, T), Hann windows of sum 1 centred on every `hop` samples."""
    shape = torch.hann_window(window, device=x_BN.device, dtype=x_BN.dtype)
    made: Tensor = torch.stft(x_BN, window, hop, window=shape / shape.sum(), center=True, pad_mode="reflect", return_complex=True)
    return made


def mel_distance(x_BN: Tensor, target_BN: Tensor, windows: tuple[int, ...] = MEL_WINDOWS) -> Tensor:
    """Mean |difference| of the log10 of mel magnitudes, the mean over the scales, (B,): 0 where they sound alike, 1 is a factor of ten.

    The Descript codec's loss is the sum over its seven scales, and so seven times this. The windows that do not fit into the sound are left
    out.
    """
    parts = []
    for window in windows:
        if window <= x_BN.shape[1]:
            bands = int(window / _SAMPLES_PER_BAND)
            made, wanted = (mel_spectrogram(s, window, bands).clamp_min(1e-5).log10() for s in (x_BN, target_BN))
            parts.append((made - wanted).abs().flatten(1).mean(1))
    return torch.stack(parts).mean(0)


def si_sdr_db(output_N: Tensor, target_N: Tensor) -> float:
    """Scale-invariant ratio of signal to distortion in dB (Le Roux et al. 2019), within [-100, 100]; both without their mean.

    10 log10(|a s|^2 / |a s - y|^2), a = <y, s> / |s|^2. A silent target, of which there is nothing to say, has -100.
    """
    y, s = (v.double() - v.double().mean() for v in (output_N, target_N))
    energy = float(s @ s)
    if energy < 1e-12:
        return MIN_SI_SDR_DB
    a = float(y @ s) / energy
    signal, distortion = a * a * energy, float((a * s - y).square().sum())
    if not math.isfinite(signal + distortion):
        return math.nan
    if distortion <= 0 or signal <= 0:
        return MAX_SI_SDR_DB if signal > 0 else MIN_SI_SDR_DB
    return min(MAX_SI_SDR_DB, max(MIN_SI_SDR_DB, 10 * math.log10(signal / distortion)))


@lru_cache(maxsize=32)
def _mel_bank(window: int, bands: int) -> Tensor:
    """Triangles over the bins of a transform, (M, window / 2 + 1), evenly spaced in mel (2595 log10(1 + f / 700)) from 0 to 24 kHz.

    A band narrower than a bin takes the bin nearest to its middle, so that no band is empty.
    """
    top = 2595 * math.log10(1 + RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, RATE_HZ / 2, window // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rise, fall).clamp_min(0)
    nearest = (bins - edges[1:-1, None]).abs().argmin(1)
    empty = bank.sum(1) == 0
    bank[empty, nearest[empty]] = 1.0
    return (bank / bank.sum(1, keepdim=True)).float()
