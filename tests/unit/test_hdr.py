"""High dynamic range as a screen of standard range shows it: the standards' own points, and FFmpeg's scaler."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from curation.hdr import HLG, PQ, shown, shown_luma, write_table

BT709, P3, BT2020 = 1, 12, 9


def coded(*codes: float) -> np.ndarray:
    """Grey pixels of these codes, 0 to 1."""
    return np.repeat(np.rint(np.array(codes) * 65535).astype(np.uint16)[None, :, None], 3, axis=2)


@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.5807), (HLG, 0.75)])
def test_reference_white_is_white_and_black_is_black(transfer: int, white: float) -> None:
    """203 nits, PQ's 58 % and HLG's 75 % (ITU-R BT.2408), come out as 255 and what is brighter too; 0 as 0; grey stays grey in all primaries."""
    for primaries in (BT709, BT2020, P3, 2):
        found = shown(coded(0, 0.3, white, 0.95), transfer, primaries)[0].astype(int)
        assert np.ptp(found, axis=1).max() <= 1
        assert found[0, 0] == 0 and 0 < found[1, 0] < 128 and found[2, 0] >= 253 and found[3, 0] == 255


def test_levels_are_those_of_ffmpegs_scaler() -> None:
    """19 of 20 PQ colours of BT.2020 that BT.709 holds come out within two levels of what FFmpeg's scaler makes of them; near its edge their gamuts' mappings differ."""
    codes = np.random.Generator(np.random.Philox(key=1)).integers(8000, 38000, (1, 512, 3)).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(np.repeat(codes, 16, axis=0), format="rgb48le")
    frame.color_trc, frame.color_primaries, frame.color_range, frame.colorspace = PQ, BT2020, 2, 0
    wanted = VideoReformatter().reformat(frame, format="rgb24", dst_color_trc=BT709, dst_color_primaries=BT709, threads=1).to_ndarray()[8]
    found = shown(codes, PQ, BT2020)[0]
    held = ((found > 24) & (found < 255)).all(axis=1)
    assert held.sum() > 100
    assert np.percentile(np.abs(found[held].astype(int) - wanted[held]).max(axis=1), 95) <= 2


def test_luma_is_brought_to_the_same_levels() -> None:
    """A grey of PQ in limited range becomes the limited-range level of what the picture shows; luma of standard range is left alone."""
    luma = np.array([[16, 60, 90, 143, 235]], np.uint8)
    levels = shown(coded(*((luma[0].astype(float) - 16) / 219)), PQ, BT2020)[0, :, 0].astype(float)
    assert np.abs(shown_luma(luma, PQ)[0].astype(float) - (16 + levels * 219 / 255)).max() <= 1.5
    assert shown_luma(luma, BT709) is luma


def test_light_beyond_white_keeps_its_hue_and_fades() -> None:
    """An orange three times as bright as white holds is orange still, not yellow, and paler; clipped a channel it would be yellow."""
    bright = shown(np.rint(np.array([[[0.70, 0.60, 0.50]]]) * 65535).astype(np.uint16), PQ, BT709)[0, 0].astype(int)
    red, green, blue = bright
    assert red == 255 and 140 < green < 220 and blue < green - 15


def test_the_table_for_ffmpeg_is_the_formula(tmp_path: Path) -> None:
    """The file has a line a colour, red fastest, from black to white."""
    write_table(tmp_path / "a.cube", PQ, BT2020)
    size, *lines = (tmp_path / "a.cube").read_text().splitlines()
    table = np.array([line.split() for line in lines], float)
    n = int(size.split()[1])
    assert table.shape == (n**3, 3) and (table[0] == 0).all() and (table[-1] == 1).all()
    assert table[10, 0] > 0 and table[10, 1:].max() == 0  # red alone
    grey = np.rint(65535 * np.arange(n) / (n - 1)).astype(np.uint16)
    wanted = shown(np.repeat(grey[None, :, None], 3, axis=2), PQ, BT2020)[0] / 255
    assert np.abs(table[[i * (n * n + n + 1) for i in range(n)]] - wanted).max() < 1e-4
