"""Which set and bucket a clip falls in, and that the frames fit in it."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from curation.buckets import OUTPUT, DurationRow, SetConfig, assign_set, assign_sets, bucket_of, crop_share, size_of

CONF = Path(__file__).resolve().parents[2] / "conf" / "sets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The part of a clip that buckets look at."""

    kind: str = "video"
    width: int | None = 1920
    height: int | None = 1080
    start_us: int = 0
    end_us: int = 6_000_000


def load(name: str) -> SetConfig:
    """The set in conf/sets, every key a field."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert set(values) <= {f.name for f in fields(SetConfig)}
    rows = tuple(DurationRow(**row) for row in values.pop("durations", ()))
    return SetConfig(**values, durations=rows)


def lasting(seconds: float, **changes: Any) -> Candidate:
    return Candidate(start_us=1_000_000, end_us=1_000_000 + round(seconds * 1e6), **changes)


@pytest.mark.parametrize("name", sorted(p.stem for p in CONF.glob("*.yaml")))
def test_configured_sets_load(name: str) -> None:
    """Every file in conf/sets is a valid set of the same name, and all its sizes are multiples of 16."""
    cfg = load(name)
    assert cfg.name == name
    for aspect in cfg.aspects if cfg.kind != "audio" else ():
        width, height = size_of(aspect, cfg)
        across, down = map(int, aspect.split(":"))
        assert width % 16 == height % 16 == 0
        assert width / height == pytest.approx(across / down, rel=0.06)


@pytest.mark.parametrize(
    ("name", "aspect", "size"),
    [
        ("high_res", "16:9", (1024, 576)),
        ("high_res", "9:16", (576, 1024)),
        ("high_res", "1:1", (768, 768)),
        ("high_res", "4:3", (896, 672)),
        ("low_res", "1:1", (256, 256)),
        ("low_res", "16:9", (336, 192)),
        ("tiny_video", "16:9", (256, 144)),
        ("tiny_video", "3:4", (144, 192)),
    ],
)
def test_bucket_sizes(name: str, aspect: str, size: tuple[int, int]) -> None:
    """The paper's 1024 x 576 and 576 x 1024 come out of an area of 768^2, and the other sizes in the same way."""
    assert size_of(aspect, load(name)) == size


@pytest.mark.parametrize(
    ("seconds", "bucket", "fps", "latents"),
    [
        (4, "16x9_128f", 32, 16),
        (6, "16x9_128f", 22, 16),
        (7.999, "16x9_128f", 17, 16),
        (8, "16x9_192f", 24, 24),
        (12, "16x9_256f", 22, 32),
        (15.9, "16x9_256f", 17, 32),
        (16, "16x9_256f", 16, 32),
        (60, "16x9_256f", 16, 32),
    ],
)
def test_the_papers_duration_buckets(seconds: float, bucket: str, fps: int, latents: int) -> None:
    """4 to 8 s give 128 frames, 8 to 12 s 192, 12 s and more 256, at the lowest whole rate whose frames fit."""
    fit = bucket_of(lasting(seconds), load("high_res"))
    assert fit.bucket is not None
    assert (fit.bucket.name, fit.fps_num, fit.fps_den, fit.bucket.n_latent_frames) == (bucket, fps, 1, latents)


@given(st.integers(4_000_000, 20_000_000), st.integers(0, 10**12))
def test_the_frames_fit_in_the_clip(duration_us: int, start_us: int) -> None:
    """The encoded span lies in the clip, in its middle, and lasts n_frames / fps to the microsecond."""
    clip = Candidate(start_us=start_us, end_us=start_us + duration_us)
    fit = bucket_of(clip, load("low_res"))
    assert fit.bucket and fit.bucket.n_frames and fit.fps_num and fit.start_us is not None and fit.end_us is not None
    assert clip.start_us <= fit.start_us < fit.end_us <= clip.end_us
    assert fit.end_us - fit.start_us == fit.bucket.n_frames * 1_000_000 // fit.fps_num
    assert abs((fit.start_us - clip.start_us) - (clip.end_us - fit.end_us)) <= 1
    assert 16 <= fit.fps_num <= 32


@given(st.integers(200, 4000), st.integers(200, 4000))
def test_nothing_is_enlarged_and_little_is_cut(width: int, height: int) -> None:
    """A picture in a bucket is at least as large as the bucket and loses at most max_crop_share, to the nearest of the aspects."""
    cfg = load("image")
    fit = bucket_of(Candidate(kind="image", width=width, height=height), cfg)
    assume(fit.bucket is not None)
    assert fit.bucket and fit.bucket.width and fit.bucket.height and fit.crop_share is not None
    assert fit.bucket.width <= width and fit.bucket.height <= height
    least = min(crop_share(width, height, *map(int, a.split(":"))) for a in cfg.aspects)
    assert fit.crop_share == least <= cfg.max_crop_share
    assert (fit.bucket.n_frames, fit.bucket.n_latent_frames) == (1, 1)


def test_crop_share() -> None:
    """A 2:1 picture loses half to become square and nothing to stay 2:1; the transposed one likewise."""
    assert [crop_share(200, 100, 1, 1), crop_share(200, 100, 2, 1), crop_share(100, 200, 1, 1)] == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (lasting(3.9), "too_short"),
        (lasting(6, width=1280, height=719), "too_small"),
        (lasting(6, width=None), "size_unknown"),
        (lasting(6, width=4000, height=1000), "crop"),
        (lasting(6, kind="image"), "kind"),
    ],
)
def test_a_refusal_has_a_reason(clip: Candidate, reason: str) -> None:
    """A clip that does not fit has no bucket and a machine-readable reason."""
    fit = bucket_of(clip, load("low_res"))
    assert (fit.bucket, fit.reason) == (None, reason)


def test_rates_out_of_bounds_are_refused() -> None:
    """A row whose frames would need more than its highest rate says too_short; beyond the last row is too_long."""
    row = DurationRow(min_s=1, max_s=5, n_frames=64, min_fps=8, max_fps=16)
    cfg = SetConfig(name="x", kind="video", short_side_px=144, durations=(row,))
    assert [bucket_of(lasting(s), cfg).reason for s in (3, 4, 6)] == ["too_short", "ok", "too_long"]


def test_sound_has_buckets_by_length() -> None:
    """Sound of 4, 8 and 16 s or more falls in the bucket it fills, cut from its middle, with no picture."""
    cfg = load("audio")
    found = [bucket_of(lasting(s, kind="audio", width=None, height=None), cfg) for s in (3, 4, 9, 100)]
    assert [f.bucket.name if f.bucket else f.reason for f in found] == ["too_short", "4s", "8s", "16s"]
    assert (found[3].start_us, found[3].end_us) == (43_000_000, 59_000_000)
    assert found[3].bucket is not None and found[3].bucket.n_latent_frames is None


def test_the_strictest_set_wins() -> None:
    """768 px go to high_res, 720 px to low_res, less to none with a reason, whatever the order of the sets."""
    for sets in ([load("low_res"), load("high_res")], [load("high_res"), load("low_res")]):
        found = [assign_set(lasting(6, width=w, height=h), sets) for w, h in ((1366, 768), (1280, 720), (640, 360))]
        assert [m.set_name for m in found] == ["high_res", "low_res", None]
        assert found[2].fit.reason == "too_small"


def test_table_of_sets() -> None:
    """One row out for one row in, in order, with the set, the bucket and the reason."""
    schema = pa.schema([(c, pa.int64()) for c in ("width", "height", "start_us", "end_us")])
    rows = [(1920, 1080, 0, 6_000_000), (1920, 1080, 0, 1_000_000)]
    table = pa.Table.from_pylist([dict(zip(schema.names, r, strict=True)) for r in rows], schema=schema)
    table = table.append_column("clip_id", pa.array(["a", "b"])).append_column("kind", pa.array(["video", "video"]))
    out = assign_sets(table, [load("low_res")])
    assert out.schema.equals(OUTPUT)
    assert [tuple(r.values()) for r in out.to_pylist()] == [
        ("a", "low_res", "16x9_128f", 4032, "low_res", "ok"),
        ("b", None, None, None, None, "too_short"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "film"},
        {"area_side_px": 256},
        {"aspects": ("16/9",)},
        {"landscape_share": 1.0},
        {"durations": ()},
        {"durations": (DurationRow(min_s=4, n_frames=100),)},
        {"durations": (DurationRow(min_s=4, max_s=4, n_frames=128),)},
    ],
)
def test_impossible_sets_are_refused(bad: dict[str, Any]) -> None:
    """Unknown kinds, two sizes, odd aspects, shares of all, missing or impossible durations are refused at once."""
    row = DurationRow(min_s=4, n_frames=128, min_fps=16, max_fps=32)
    good: dict[str, Any] = {"name": "x", "kind": "video", "short_side_px": 144, "durations": (row,)}
    assert math.isclose(SetConfig(**good).max_crop_share, 0.3)
    with pytest.raises(ValueError):
        SetConfig(**{**good, **bad})
