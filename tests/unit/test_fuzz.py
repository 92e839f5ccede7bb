"""Damaged media, by the hundred and always the same ones: no crash reaches the run, no limit is broken, same bytes give the same verdict."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.damages import DAMAGES, SEED_BYTES, Seed, make_case, packets_of, seeds
from benchmarks.fuzz import fuzz_all
from curation.media import CODES
from tests.media_makers import pan, scene, write_video, write_wav


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    """Small media of our own: present everywhere, if less varied than real ones."""
    folder = tmp_path_factory.mktemp("seeds")
    files = [write_wav(folder / "a.wav", np.sin(np.arange(8000) / 9))]
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")):
        files.append(
            write_video(folder / name, pan(1, 10, width=160, height=96), codec=codec, sound_s=0.5 if name in ("a.mp4", "a.mkv") else 0)
        )
    for name in ("a.jpg", "a.png", "a.webp", "a.avif", "a.gif"):
        Image.fromarray(scene(1, 96, 64)).save(folder / name)
        files.append(folder / name)
    return [Seed(f.name, f.read_bytes(), packets_of(f.read_bytes())) for f in files]


def test_damaged_generated_media_end_as_rows(generated: list[Seed]) -> None:
    """300 cases: facts or a known error each, none a fault of ours."""
    totals = fuzz_all(range(300), generated, n_workers=1)
    assert totals.faults == []
    assert totals.outcomes.total() == 300 and totals.n_repeated == 30
    ends = {o.removeprefix("scan: ").removesuffix(" (child lost)") for o in totals.outcomes if "," not in o}
    assert ends <= {*CODES, "video", "image", "audio"}
    assert len(totals.outcomes) > 5


def test_damaged_real_media_end_as_rows(media: Path) -> None:
    """The same with 200 cases of the real files."""
    totals = fuzz_all(range(1_000_000, 1_000_200), seeds(media), n_workers=1)
    assert totals.faults == []
    assert totals.outcomes.total() == 200


def test_a_case_is_made_from_its_number(generated: list[Seed]) -> None:
    """The same number gives the same bytes, other numbers others, and every kind of damage occurs."""
    cases = [make_case(n, generated) for n in range(200)]
    assert cases == [make_case(n, generated) for n in range(200)]
    assert len({data for _, data in cases}) > 190
    assert all(any(d.__name__ in name for name, _ in cases) for d in DAMAGES)
    assert max(len(data) for _, data in cases) < 3 * SEED_BYTES
