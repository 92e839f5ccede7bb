"""An explanation as lines for a terminal."""

from manifests.explain import ClipLine, Explanation, Measured
from manifests.wording import number_text, time_text, value_text, visible


def to_text(e: Explanation) -> str:
    """The explanation as lines for a terminal, with nothing from outside that could move the cursor."""
    return "\n".join(visible(line) for line in [*_head(e), *_told(e), *_kept(e), *_file(e), *_seen(e)]) + "\n"


_REMEDIES = {
    "licence_class": "state a licence: in a sidecar (FILE.json with a field `licence`), in a table (--rights), or with ingest.default_licence "
    "for all that state none",
}
"""What helps where a measure is not known, by its name."""


def _head(e: Explanation) -> list[str]:
    lines = [f"{e.subject} {e.id}", f"  file      {e.uri}"]
    if e.start_us is not None and e.end_us is not None and e.end_us > e.start_us:
        lines.append(f"  span      {e.start_us / 1e6:.3f} s to {e.end_us / 1e6:.3f} s ({time_text(e.end_us - e.start_us)})")
    lines.append(f"  decision  {e.decision}" + (f" ({e.decided_by})" if e.decided_by else ""))
    why = next((v for v in e.verdicts if v.decisive), None)
    if why and e.decision != "keep":
        lines.append(f"  because   {why.name}: {why.sentence}")
        if why.passed is None and why.measure in _REMEDIES:
            lines.append(f"  remedy    {_REMEDIES[why.measure]}")
    if e.error:
        lines.append(f"  error     {e.error}")
    if e.earlier_runs:
        lines.append(f"  decided before by run {', '.join(str(n) for n in e.earlier_runs)}")
    return lines


def _told(e: Explanation) -> list[str]:
    marks = {True: "pass   ", False: "REJECT ", None: "unknown"}
    lines = ["", "rules"] if e.verdicts else ["", "rules: none has decided"]
    lines += [f"  {marks[v.passed]}  {v.name:<20} {v.sentence}" + ("   <- decisive" if v.decisive else "") for v in e.verdicts]
    lines += ["", "measures"]
    return lines + [f"  {m.name:<22} {_shown(m)}" for m in e.measures]


def _shown(m: Measured) -> str:
    if m.value is None:
        return "not measured"
    if isinstance(m.value, bool):
        return "yes" if m.value else "no"
    return m.value if isinstance(m.value, str) else value_text(m.value, m.unit)


def _kept(e: Explanation) -> list[str]:
    lines = [""]
    if e.place and e.place.shard:
        lines += [f"written to {e.place.shard} (set {e.place.set_name}, bucket {e.place.bucket}, SHA-256 {e.place.shard_sha256})"]
        lines += [
            f"  .{m.extension:<5} bytes {number_text(m.offset)} + {number_text(m.size_bytes)}  SHA-256 {m.sha256}" for m in e.place.members
        ]
    elif e.place:
        lines += [f"set {e.place.set_name}, bucket {e.place.bucket}; in no shard"]
    elif e.subject == "clip":
        lines += ["in no set and no shard"]
    if e.caption is not None:
        lines += [f"caption ({e.captioner}): {e.caption}"]
    if e.duplicates:
        lines += ["near-duplicates"] + [
            f"  {d.clip_id}  {'keeper' if d.rank == 0 else f'copy {d.rank}'}"
            + (f", distance {d.distance_bits} bits" if d.distance_bits is not None else "")
            + f"  {d.uri}"
            for d in e.duplicates
        ]
    if e.clips:
        lines += [f"clips ({number_text(len(e.clips))})", *(_clip_line(c) for c in e.clips)]
    return lines


def _clip_line(c: ClipLine) -> str:
    span = f"{c.start_us / 1e6:9.3f} s  {time_text(c.end_us - c.start_us):>8}"
    return f"  {c.clip_id}  {span}  {c.decision:<7} {c.set_name or ''} {c.bucket or ''}".rstrip()


def _file(e: Explanation) -> list[str]:
    lines = ["", f"file {e.asset_id}", f"  SHA-256                {e.asset_sha256}"]
    lines += [f"  source                 {e.source}"] if e.source else []
    return lines + [f"  {m.name:<22} {'not stated' if m.value is None else str(m.value)}" for m in e.rights]


def _seen(e: Explanation) -> list[str]:
    if not e.exposures:
        return ["", "seen by no checkpoint" if e.exposures_replayed else "no checkpoint is recorded"]
    if not e.exposures_replayed:
        return ["", f"{len(e.exposures)} checkpoints are recorded; whether they saw it was not replayed"]
    return ["", "seen by"] + [
        f"  {s.run_path}/{s.checkpoint} ({s.stage}) first at step {number_text(s.first_step or 0)}" for s in e.exposures
    ]
