"""Configuration is strict: values in YAML, meaning in dataclasses, and an error names file and key."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from curation import motion, text
from pipelines.config import CONF, ConfigError, available, bind, digest, load, to_record, with_overrides, without_unknown
from pipelines.settings import CurateConfig
from training.config import AUTOENCODERS, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None


VIDEO_STAGES = (
    *("image_ae", "tae", "t2i_256", "t2v_256", "t2v_768", "video_sft", "personal_1", "personal_2", "personal_3"),
    *("edit_1", "edit_2", "edit_3"),
)


@pytest.mark.parametrize("name", available("curate"))
def test_every_curation_config_binds(name: str) -> None:
    """Each file in conf/curate composes into a CurateConfig with rules and sets."""
    config = load(CurateConfig, "curate", name)
    assert config.rules
    assert all(k == s.name for k, s in config.sets.items())


@pytest.mark.parametrize(("stage", "name"), [(s, n) for s in VIDEO_STAGES for n in available(f"train/{s}")])
def test_every_training_config_binds(stage: str, name: str) -> None:
    """Each file in conf/train composes into a TrainConfig; a generator's takes its sizes from conf/model/transformer."""
    config = load(TrainConfig, f"train/{stage}", name)
    assert config.steps > 0 and (config.flow is None) == (stage in AUTOENCODERS)
    if config.flow:
        assert config.flow.model.layers == {"tiny": 4, "h200": 24, "paper": 48}[name]


def test_rules_measure_columns_that_exist() -> None:
    """Every rule in conf compares a column of the table it speaks about."""
    from manifests.records import Asset, Clip

    for name in available("curate"):
        for rule in load(CurateConfig, "curate", name).policy():
            record = Asset if rule.subject == "asset" else Clip
            assert rule.measure in record.__dataclass_fields__, rule.name


def test_rules_say_which_version_of_their_measure_they_judge() -> None:
    """The version stands with the measure's code alone: a rule's row has it, and no file can state another."""
    rules = {r.measure: r.measure_version for r in load(CurateConfig, "curate", "paper").policy()}
    assert rules["motion"] == motion.VERSION and rules["text_score"] == text.VERSION and rules["duration_s"] == "1"
    with pytest.raises(ConfigError, match="measure_version"):
        load(CurateConfig, "curate", "paper", ["rules.motion.measure_version=7"])


def test_overrides_change_values_and_the_digest() -> None:
    """key=value works for keys in the file and for keys left to their defaults; equal values give equal digests."""
    plain = load(CurateConfig, "curate", "tiny")
    changed = load(CurateConfig, "curate", "tiny", ["rules.motion.threshold=3", "engine.name=local"])
    assert changed.rules["motion"].threshold == 3.0
    assert changed.engine.name == "local"
    assert digest(plain) == digest(load(CurateConfig, "curate", "tiny")) != digest(changed)


def test_an_engine_that_does_not_exist_is_refused() -> None:
    """A misspelt engine is an error that lists those there are, and does not mean the default one."""
    with pytest.raises(ConfigError, match="lcoal"):
        load(CurateConfig, "curate", "tiny", ["engine.name=lcoal"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rules.motion.treshold=3", r"conf/curate/tiny\.yaml: unknown key rules\.motion\.treshold"),
        ("nothing=1", r"unknown key nothing"),
        ("seed=lots", r"seed is 'lots', expected int"),
        ("rules.motion.subject=frame", r"rules\.motion\.subject is 'frame', expected one of asset, clip"),
        ("rules.motion.kinds=video", r"rules\.motion\.kinds is 'video', expected a list"),
        ("concepts.min_clips=true", r"concepts\.min_clips is True, expected int"),
    ],
)
def test_a_wrong_key_or_type_names_file_and_key(override: str, message: str) -> None:
    """Nothing is ignored: the error says where, what was expected and what was found."""
    with pytest.raises(ConfigError, match=message):
        load(CurateConfig, "curate", "tiny", [override])


def test_binding_nests_and_reports_what_is_missing() -> None:
    """Nested dataclasses, tuples, options and whole numbers for floats bind; a missing required key is named."""
    assert bind(Outer, {"size": 3, "inner": {"rate": 1, "names": ["a"]}}, "x.yaml") == Outer(size=3, inner=Inner(rate=1.0, names=("a",)))
    with pytest.raises(ConfigError, match=r"x\.yaml: size is missing; expected int"):
        bind(Outer, {}, "x.yaml")


def test_a_file_of_ones_own_can_build_on_ours(tmp_path: Path) -> None:
    """A YAML file outside conf/ may name our groups in its defaults."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults:\n  - /rules@rules: paper\n  - /sets@sets.tiny_video: tiny_video\n  - _self_\nseed: 7\n")
    config = load(CurateConfig, "curate", str(mine))
    assert config.seed == 7
    with pytest.raises(ConfigError, match="no such file"):
        load(CurateConfig, "curate", str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match="there are audio, hd, paper, tiny"):
        load(CurateConfig, "curate", "huge")


def test_conf_holds_values_only() -> None:
    """Every file in conf/ is YAML."""
    assert {p.suffix for p in CONF.rglob("*") if p.is_file()} == {".yaml"}


def test_settings_of_an_older_version_still_bind() -> None:
    """Keys that are gone are left out at every depth; the others keep their values, and a new override of a key that is gone is refused."""
    stored = json.loads(to_record(load(CurateConfig, "curate", "tiny", [])))
    stored["gone"] = 1
    stored["measures"]["borders"]["gone"] = 2
    stored["rules"]["motion"]["gone"] = 3
    assert bind(CurateConfig, without_unknown(CurateConfig, stored), "stored") == load(CurateConfig, "curate", "tiny", [])
    with pytest.raises(ConfigError, match="gone"):
        bind(CurateConfig, with_overrides(without_unknown(CurateConfig, stored), ["measures.borders.gone=4"]), "stored")
