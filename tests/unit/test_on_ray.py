"""How stages are spread over a Ray cluster, by what it has and what the configuration asks."""

import dataclasses
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.captions import EndpointConfig
from pipelines.config import ConfigError, load
from pipelines.on_ray import actors_of, block_sizes
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


@given(st.lists(st.floats(0, 1e9), max_size=60).map(lambda costs: sorted(costs, reverse=True)), st.integers(1, 8))
def test_tasks_hold_every_unit_once_and_none_holds_much(costs: list[float], workers: int) -> None:
    """Units dearest first: each is in one task, none has more than eight, and one of several units is at most half of a worker's share."""
    sizes = block_sizes(costs, workers)
    assert sum(sizes) == len(costs) and all(1 <= n <= 8 for n in sizes)
    for n, end in zip(sizes, accumulate(sizes), strict=True):
        assert n == 1 or sum(costs[end - n : end]) <= sum(costs) / 2 / workers * 1.000001


def test_dear_units_are_alone_and_cheap_ones_together() -> None:
    """A film beside many short clips is a task of its own; equal clips go in eights, and in fewer where workers would wait for the last."""
    assert block_sizes([1000.0, *[1.0] * 40], 2)[:2] == [1, 8]
    assert block_sizes([1.0] * 640, 4)[0] == 8
    assert block_sizes([1.0] * 32, 2)[:2] == [8, 6] and block_sizes([1.0] * 32, 2)[-1] == 1
    assert block_sizes([], 2) == []
