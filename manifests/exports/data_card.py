"""`README.md`: the data card people and the Hugging Face hub read first, with every number from the tables."""

import json
from pathlib import PurePosixPath

from manifests.exports.facts import MAX_ROWS, Facts, hours, table, text
from manifests.wording import bytes_text

NAME = "README.md"
_BANDS = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
_TASKS = {"video": ["text-to-video"], "image": ["text-to-image"], "audio": ["text-to-audio"]}


def write_card(facts: Facts) -> str:
    """The card as Markdown with YAML front matter."""
    return "\n\n".join([_front_matter(facts), *_head(facts), *_inside(facts), *_made(facts), *_rights(facts), *_checks(facts)]) + "\n"


def source_name(name: object) -> str:
    """The last part of a source's name: where a folder lay on someone's machine is nobody's business."""
    return PurePosixPath(str(name).replace("\\", "/")).name or "unnamed"


def size_band(n: int) -> str:
    """The hub's word for a size."""
    return next((word for limit, word in _BANDS if n < limit), "n>1B")


def _front_matter(facts: Facts) -> str:
    """YAML, every string as JSON writes it: a name from outside cannot end its line or start a key."""
    licences = sorted({str(r["licence"]) for r in facts.licences if r["kept"] and r["licence"]})
    simple = licences[0].lower() if len(licences) == 1 and licences[0].isascii() else "other"
    kinds = [str(k["kind"]) for k in facts.kinds if k["kept"] and k["kind"] in _TASKS]
    lines = [
        "---",
        f"pretty_name: {json.dumps(f'{facts.dataset} {facts.name}')}",
        f"license: {json.dumps(simple)}",
        *(
            [f"license_name: {json.dumps(' AND '.join(licences) or 'not-stated')}", "license_link: attribution.csv"]
            if simple == "other"
            else []
        ),
        f"size_categories: [{json.dumps(size_band(facts.kept))}]",
        f"task_categories: {json.dumps([t for k in kinds for t in _TASKS[k]])}",
        f"source_datasets: {json.dumps(sorted({source_name(s['name']) for s in facts.sources})[:100])}",
        f"tags: {json.dumps([*kinds, 'webdataset', 'croissant'])}",
        "configs:",
    ]
    for name in sorted({str(s["set_name"]) for s in facts.sets}) or ["none"]:
        lines += [f"- config_name: {json.dumps(name)}", f"  data_files: {json.dumps(f'../../shards/{name}/*/*.tar')}"]
    return "\n".join([*lines, "---"])


def _head(facts: Facts) -> list[str]:
    clips = sum(k["clips"] for k in facts.kinds)
    assets = sum(k["assets"] for k in facts.kinds)
    return [
        f"# {text(facts.dataset)}, release {text(facts.name)}",
        f"Version {facts.version} of the manifest, frozen {facts.created_at.isoformat(timespec='seconds')} by dailies {text(facts.code_version)}. "
        f"From {assets:,} files came {clips:,} clips, of which {facts.kept:,} ({hours(facts.kept_us)} h) are in the set; the others are in the "
        "manifest with the rule that dropped them.",
        table(
            ["kind", "files", "clips", "kept", "hours kept"],
            [[k["kind"], k["assets"], k["clips"], k["kept"], hours(k["kept_us"])] for k in facts.kinds],
        ),
    ]


def _inside(facts: Facts) -> list[str]:
    return [
        "## What is in it",
        f"{facts.shards:,} WebDataset tars, {bytes_text(facts.shard_bytes)}, {facts.samples:,} samples: `<clip_id>.mp4`, `.jpg` or `.flac`, with `.json` and `.txt`.",
        table(
            ["set", "bucket", "kind", "clips", "hours"],
            [[s["set_name"], s["bucket"], s["kind"], s["kept"], hours(s["kept_us"])] for s in facts.sets],
        ),
        "Captions:" if facts.captioners else "There are no captions.",
        *(
            [table(["captioner", "version", "captions"], [[c["captioner"], c["captioner_version"], c["kept"]] for c in facts.captioners])]
            if facts.captioners
            else []
        ),
    ]


def _made(facts: Facts) -> list[str]:
    rules = [
        [
            r["name"],
            f"{r['measure']} {r['op']} {r['threshold']:g} {r['unit']}".strip(),
            r["on_unknown"],
            *(r[n] if r[n] is not None else "not counted" for n in ("passed", "rejected", "unknown")),
        ]
        for r in facts.policy
    ]
    return [
        "## How it was made",
        "Rules in the order in which they apply. Passed, rejected and unknown add up to what the rule was asked about.",
        table(["rule", "keeps", "when unknown", "passed", "rejected", "unknown"], rules),
        "Runs:",
        table(
            ["run", "command", "code", "configuration"],
            [[r["run_no"], r["command"], r["code_version"], str(r["config_sha256"])[:16]] for r in facts.runs],
        ),
    ]


def _rights(facts: Facts) -> list[str]:
    states = {None: "not looked for", 0: "no reservation seen", 1: "training reserved"}
    classes = {0: "commercial use allowed", 1: "non-commercial", 2: "academic", 3: "unspecified", None: "not stated"}
    return [
        "## Rights",
        "Licences are claims with evidence, not judgements, and hold per file. `attribution.csv` names creators.",
        table(
            ["licence", "class", "files", "files in the set", "clips in the set"],
            [[r["licence"], classes.get(r["class"], r["class"]), r["assets"], r["kept_assets"], r["kept"]] for r in facts.licences],
        ),
        table(
            ["opt-out signal", "consent", "files", "clips in the set"],
            [[states.get(s["optout_state"], s["optout_state"]), s["consent"], s["assets"], s["kept"]] for s in facts.signals],
        ),
        table(
            ["source", "supplier", "files", "clips in the set"],
            [[source_name(s["name"]), s["supplier"], s["assets"], s["kept"]] for s in facts.sources],
        ),
        *([f"Lists stop at {MAX_ROWS} rows; the manifest has all."] if MAX_ROWS in (len(facts.licences), len(facts.sources)) else []),
        "`removals.jsonl` lists, as hashes, what was removed; remove it from what you derived too.",
    ]


def _checks(facts: Facts) -> list[str]:
    signed = "It is signed: give `--key` with the provider's public key." if facts.signed else "It is not signed."
    return [
        "## Whether it is still what was released",
        f"`dailies verify` on this folder re-hashes everything. Merkle root `{facts.root}`. {signed} `dailies prove` shows that a clip or file "
        "is in it, or is not. This shows that nobody changed the record afterwards, not that the record was true.",
    ]
