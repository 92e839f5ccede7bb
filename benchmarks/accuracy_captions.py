"""Captions under fire: a local HTTP server shuffles, delays, doubles, cuts and forges answers; how many captions land on a wrong clip?

    python benchmarks/accuracy_captions.py [--seeds 60]

The server knows each clip's right caption and counts requests, tokens and requests in flight (tests/caption_server.py). Nothing was tuned
on it. The share of the mix is counted over 100,000 clip ids.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.figures import Figure, as_table
from curation.adapters.openai_captioner import EndpointConfig
from curation.adapters.request_limits import Limits
from curation.caption_facts import SidecarConfig
from curation.caption_mix import draw
from curation.captions import CaptionClips, CaptionConfig
from tests.caption_server import CaptionServer, make_items, misbehave, wrong_rows

LIMITS = Limits(concurrency=8, timeout_s=1.0, attempts=3, backoff_s=0.005, max_wait_s=2.0, give_up_after=1000)


def figures(media: Path | None = None, seeds: int = 60) -> list[Figure]:
    """The figures; `media` is not needed. Some 20 seconds of CPU time with 60 seeds."""
    done: Counter[str] = Counter()
    for seed in range(seeds):
        done += _run(seed)
    small = sum(draw({"small": 0.7, "large": 0.3}, 0, f"clip {i}") == "small" for i in range(100_000)) / 100_000
    on = f"{done['clips']} clips, {done['requests']} requests, 57 % of them answered badly; {done['captions']} captions"
    return [
        Figure(subject="captions", what="captions on a wrong clip, or no outcome", value=done["wrong"], target=0, on=on, at_least=False),
        Figure(subject="captions", what="limits of budget and concurrency broken", value=done["broken"], target=0, on=on, at_least=False),
        Figure(
            subject="captions",
            what="small captioner's share less 0.7",
            value=abs(small - 0.7),
            target=0.005,
            on="100,000 ids",
            at_least=False,
        ),
    ]


def _run(seed: int) -> Counter[str]:
    """One batch of 64 clips under a server that draws its behaviour with this seed; every third batch has a budget that ends early."""
    items = make_items(64, seed)
    tight = seed % 3 == 0
    limits = dataclasses.replace(
        LIMITS, concurrency=2 + seed % 7, max_requests=90 if tight else 1000, max_tokens=150_000 if tight else 5_000_000
    )
    with CaptionServer(misbehave(seed)) as server:
        endpoint = EndpointConfig(base_url=server.url, model="tiny-vl", limits=limits)
        rows = CaptionClips(CaptionConfig(sidecar=SidecarConfig(use=False), endpoints={"x": endpoint}, mix={"x": 1.0}))(items)
    seen = server.seen
    broken = (
        (len(seen.asked) > limits.max_requests)
        + (seen.tokens > limits.max_tokens)
        + (seen.most_in_flight > limits.concurrency)
        + (max(Counter(a.clip for a in seen.asked).values()) > limits.attempts)
    )
    captions = sum(row.error_code is None for row in rows)
    wrong = len(wrong_rows(items, rows))
    return Counter(clips=len(items), requests=len(seen.asked), captions=captions, wrong=wrong, broken=broken)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=60)
    print(as_table(figures(seeds=parser.parse_args().seeds)))


if __name__ == "__main__":
    main()
