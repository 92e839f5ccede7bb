"""Which of several captioners writes a clip's caption: a draw that depends on the seed, the clip and the captioners' names alone.

Movie Gen lets its small captioner write 70 % of the captions and its large one 30 %. Here any number of captioners share the clips. Each
runs an exponential race against the others, -ln(u) / share with a u of its own, and the first to finish writes: captioner i wins with the
probability of its share, the order of the list does not matter, and when one captioner comes, goes or gets another share, the only clips
that change hands are those that it wins or loses.
"""

import math
from collections.abc import Mapping

from manifests import ids


def check_mix(mix: Mapping[str, float]) -> None:
    """Raises ValueError unless the shares are finite, not negative and add up to 1."""
    bad = {name: share for name, share in mix.items() if not (math.isfinite(share) and share >= 0)}
    if bad or not math.isclose(sum(mix.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"expected shares of at least 0 that add up to 1, found {dict(mix)}")


def draw(mix: Mapping[str, float], seed: int, clip_id: str) -> str:
    """The name of the captioner of this clip."""
    racers = [(_time(share, seed, clip_id, name), name) for name, share in mix.items() if share > 0]
    return min(racers)[1]


def _time(share: float, seed: int, clip_id: str, name: str) -> float:
    return -math.log1p(-ids.uniform("captioner/v1", seed, clip_id, name)) / share
