"""How stages are spread over a Ray cluster, by what it has and what the configuration asks."""

import dataclasses

import pytest

from curation.captions import EndpointConfig
from pipelines.config import ConfigError, load
from pipelines.on_ray import actors_of
from pipelines.plan import CAPTION, STAGES, stage_named
from pipelines.settings import CurateConfig

CLUSTER = {"CPU": 64.0, "GPU": 8.0}


def test_networks_on_gpus_have_one_each() -> None:
    """An actor a core on processors; an actor a GPU where a device of the settings, however deep, is one; never more than there are units."""
    plain = load(CurateConfig, "curate", "paper")
    for name, override in (("copies", "sscd.device"), ("aesthetics", "open_clip.device"), ("people", "people.persons.device")):
        stage, on_gpu = stage_named(name), load(CurateConfig, "curate", "paper", [f"{override}=cuda"])
        assert actors_of(stage, plain, 1000, CLUSTER) == (64, 0)
        assert actors_of(stage, on_gpu, 1000, CLUSTER) == (8, 1) and actors_of(stage, on_gpu, 3, CLUSTER) == (3, 1)
    assert actors_of(CAPTION, plain, 2, CLUSTER) == (2, 0)


def test_a_gpu_that_is_not_there_is_told() -> None:
    """A device that the cluster lacks ends the run before anything is loaded, with the stage and the remedy."""
    with pytest.raises(
        ConfigError, match="copies: expected a GPU for the `device` of its settings, found none in the Ray cluster; take device=cpu"
    ):
        actors_of(stage_named("copies"), load(CurateConfig, "curate", "paper", ["sscd.device=cuda"]), 5, {"CPU": 2.0})


def test_only_what_is_heavy_has_actors_of_its_own() -> None:
    """The readers of text and speech, a few MB each, and captions from facts run in the processes that Ray has already; networks with weights of
    their own, and captions of a model or an endpoint, whose budget holds for one object, do not."""
    plain = load(CurateConfig, "curate", "tiny")
    asked = dataclasses.replace(plain.captions, endpoints={"model": EndpointConfig(base_url="http://localhost:1/v1", model="m")})
    assert {s.name for s in STAGES if s.weights(plain)} == {"aesthetics", "copies", "people", "actions", "sound-tags"}
    assert CAPTION.weights(dataclasses.replace(plain, captions=asked))
