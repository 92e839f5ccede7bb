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

from curation.buckets import OUTPUT, Bucket, assign_set, assign_sets, bucket_of, columns_of, crop_share, size_of
from curation.sets import DurationRow, Need, SetConfig, find_unmeasured
from manifests.records import Asset, Clip
from pipelines.config import load as load_config
from pipelines.plan import ENCODE
from pipelines.row_keys import encode_key
from pipelines.settings import CurateConfig

CONF = Path(__file__).resolve().parents[2] / "conf" / "sets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The part of a clip that buckets look at."""

    kind: str = "video"
    width: int | None = 1920
    height: int | None = 1080
    start_us: int = 0
    end_us: int = 6_000_000
    text_score: float | None = 0.0
    border_share: float | None = 0.0
    aesthetic: float | None = 5.0
    motion: float | None = 5.0
    motion_vector_px: float | None = 2.0
    shots_per_s: float | None = 0.1
    effective_resolution: float | None = 1.0
    blockiness: float | None = 0.0
    static_fraction: float | None = 0.0
    silence_fraction: float | None = 0.0
    diegetic_score: float | None = 1.0


def load(name: str) -> SetConfig:
    """The set in conf/sets, every key a field."""
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert set(values) <= {f.name for f in fields(SetConfig)}
    rows = tuple(DurationRow(**row) for row in values.pop("durations", ()))
    needs = tuple(Need(**need) for need in values.pop("needs", ()))
    return SetConfig(**values, durations=rows, needs=needs)


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


def test_tokens() -> None:
    """The paper's 73,728 for 256 frames of 1024 x 576; an image of 1024 x 576 has 2,304; sound 25 a second; frame-wise latents one a frame."""
    assert [b.n_tokens for b in map(bucket, (lasting(16), lasting(8), lasting(4)))] == [73_728, 55_296, 36_864]
    assert Bucket(name="16x9_1f", width=1024, height=576, n_frames=1).n_tokens == 2304
    assert bucket_of(lasting(9, kind="audio"), load("audio")).bucket == Bucket(name="8s", latents="audio", seconds=8)
    assert Bucket(name="8s", latents="audio", seconds=8).n_tokens == 200
    hd = bucket_of(lasting(9, width=3840, height=2160), load("hd")).bucket
    assert hd is not None and (hd.n_latent_frames, hd.n_tokens) == (14, 14 * 67 * 119)
    sound = bucket_of(lasting(40), load("audio_pretrain")).bucket
    assert sound is not None and (sound.n_frames, sound.n_tokens) == (480, 750)


def bucket(clip: Candidate) -> Bucket:
    fit = bucket_of(clip, load("high_res"))
    assert fit.bucket is not None
    return fit.bucket


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "high_res"),
        ({"text_score": 0.6, "motion": 1.0}, "text_score"),
        ({"motion": 2.0}, "motion"),
        ({"aesthetic": None}, "aesthetic not_run"),
        ({"motion_vector_px": None}, "high_res"),
        ({"end_us": 3_000_000, "motion": 1.0}, "too_short"),
    ],
)
def test_needs_are_looked_at_in_order(changes: dict[str, Any], said: str) -> None:
    """The first need that a clip does not meet is its reason; unmeasured is a refusal but where the set says otherwise; length comes first."""
    member = assign_set(Candidate(**changes), [load("high_res")])
    assert (member.set_name or member.fit.reason) == said


def test_a_clip_fits_several_sets() -> None:
    """All sets that take a clip are named, strictest first; one that fails the strict one's needs falls to the next."""
    sets = [load(n) for n in ("low_res", "high_res")]
    assert assign_set(Candidate(), sets).fits_sets == ("high_res", "low_res")
    fallen = assign_set(Candidate(motion=1.0), sets)
    assert (fallen.set_name, fallen.fits_sets) == ("low_res", ("low_res",))


def test_what_was_measured_nowhere_is_said() -> None:
    """Needs on measures that no clip has are named, a line a set, with what they mean for it."""
    columns = {"kind": ["video", "image"], **{n: pa.nulls(2, pa.float32()) for n in columns_of([load("high_res")])[6:]}}
    table = pa.table({**columns, "text_score": pa.array([0.1, None], pa.float32())})
    said = find_unmeasured(table, [load("high_res"), load("image")])
    missing = "border_share < 0.02 and aesthetic >= 4 and motion > 2 and shots_per_s < 0.85"
    unseen = "motion_vector_px > 0.5 and motion_vector_px < 7"
    assert said[:2] == [
        f"set high_res wants {missing}; measured on none of 1 video clips, so it takes none",
        f"set high_res wants {unseen}; measured on none of 1 video clips, so it takes them unseen",
    ]
    assert not any("text_score" in s for s in said)


def test_five_rows_of_duration() -> None:
    """Each row of the paper's table takes its clips: 16 s and more, 12 to 16, 10.67 to 12 at 24 frames a second, 8 to 10.67, 4 to 8."""
    found = [bucket_of(lasting(s), load("low_res")) for s in (20, 13, 11, 10, 5)]
    assert [(f.bucket.n_frames, f.fps_num) if f.bucket else None for f in found] == [(256, 16), (256, 20), (256, 24), (192, 20), (128, 26)]
    assert len(load("low_res").aspects) == len(load("low_res").durations) == 5


def test_what_a_clip_must_be_changes_no_sample() -> None:
    """Other needs and shares leave the settings that samples are encoded by, and so the samples; another size does not."""
    config = load_config(CurateConfig, "curate", "paper")
    looser = load_config(CurateConfig, "curate", "paper", ["sets.high_res.needs=[]", "sets.low_res.landscape_share=0.5"])
    larger = load_config(CurateConfig, "curate", "paper", ["sets.low_res.area_side_px=512"])
    clip = Clip(clip_id="c", asset_id="a", kind="video", start_us=0, end_us=13_000_000, width=1920, height=1080, set_name="low_res")
    asset = Asset(asset_id="a", asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="film.mp4", width=1920, height=1080)
    keys = [(ENCODE.digest(c), encode_key(clip, asset, c)) for c in (config, looser, larger)]
    assert keys[0] == keys[1] != keys[2]


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
        {"people_share": 0.0},
    ],
)
def test_impossible_sets_are_refused(bad: dict[str, Any]) -> None:
    """Unknown kinds, two sizes, odd aspects, shares of all, missing or impossible durations are refused at once."""
    row = DurationRow(min_s=4, n_frames=128, min_fps=16, max_fps=32)
    good: dict[str, Any] = {"name": "x", "kind": "video", "short_side_px": 144, "durations": (row,)}
    assert math.isclose(SetConfig(**good).max_crop_share, 0.3)
    with pytest.raises(ValueError):
        SetConfig(**{**good, **bad})


@pytest.mark.parametrize("bad", [{"measure": "beauty", "op": "<"}, {"measure": "motion", "op": "~"}])
def test_impossible_needs_are_refused(bad: dict[str, str]) -> None:
    """A need on something that is no column of clips, or by an unknown comparison, is refused at once."""
    with pytest.raises(ValueError, match="need on"):
        Need(**bad, threshold=1)
