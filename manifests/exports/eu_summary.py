"""`eu-ai-act-summary.json` and `.md`: a draft of the public summary of training content, Regulation (EU) 2024/1689 Art. 53(1)(d).

It follows the sections of the Commission's template of 24 July 2025. Everything the tables know is filled in; what only people know
says so, and what does not apply says that: no field is blank. It is a draft for a person, not compliance.
"""

import json
import math
from typing import Any

from manifests.exports.data_card import source_name
from manifests.exports.facts import Facts, hours, text

JSON_NAME, MD_NAME = "eu-ai-act-summary.json", "eu-ai-act-summary.md"
PERSON, NOT = "to be provided by the provider", "not applicable"

_HOURS = ((10_000, "less than 10 000 hours"), (1_000_000, "10 000 to 1 million hours"))
_IMAGES = ((10**6, "less than 1 million images"), (10**9, "1 million to 1 billion images"))
_TOP_SHARE = 0.1
"""Domains that the template asks for: the top tenth by size."""


def write_summary(facts: Facts, removals: int) -> dict[str, Any]:
    """The summary as nested sections; every leaf is a text, a number or a list that is not empty."""
    return {
        "about": "Draft of the public summary of training content under Art. 53(1)(d) of Regulation (EU) 2024/1689, made from the manifest.",
        "release": {
            "dataset": facts.dataset,
            "name": facts.name,
            "manifest_version": facts.version,
            "merkle_root": facts.root,
            "made_at": facts.created_at.isoformat(timespec="seconds"),
        },
        "1_general_information": {"1.1_provider": _provider(), "1.2_model": _model(), "1.3_modalities_and_size": _modalities(facts)},
        "2_list_of_data_sources": _sources(facts),
        "3_data_processing": _processing(facts, removals),
    }


def to_json(summary: dict[str, Any]) -> bytes:
    """The summary as JSON text."""
    return (json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_markdown(summary: dict[str, Any]) -> str:
    """The same for people."""
    return "# Summary of training content (draft)\n\n" + "\n".join(_markdown(summary, 2)) + "\n"


def band(amount: float, bands: tuple[tuple[int, str], ...], most: str) -> str:
    """The template's size band of an amount."""
    return next((words for limit, words in bands if amount < limit), most)


def _provider() -> dict[str, Any]:
    return {
        "name_and_contact": PERSON,
        "authorised_representative": PERSON,
        "date_of_this_summary": PERSON,
        "version_of_this_summary": PERSON,
    }


def _model() -> dict[str, Any]:
    return {"model_names_and_versions": PERSON, "model_dependencies": PERSON, "date_of_placing_on_the_market": PERSON}


def _modalities(facts: Facts) -> dict[str, Any]:
    kept = {k["kind"]: k for k in facts.kinds if k["kept"]}
    video, image, audio = (kept.get(k) for k in ("video", "image", "audio"))
    captions = sum(c["kept"] for c in facts.captioners)
    return {
        "text": f"{captions} captions, as annotation of the media" if captions else NOT,
        "image": {"size": band(image["kept"], _IMAGES, "more than 1 billion images"), "images": image["kept"]} if image else NOT,
        "video": {
            "size": band(hours(video["kept_us"]), _HOURS, "more than 1 million hours"),
            "hours": hours(video["kept_us"]),
            "note": "sound inside video counts as video",
        }
        if video
        else NOT,
        "audio": {"size": band(hours(audio["kept_us"]), _HOURS, "more than 1 million hours"), "hours": hours(audio["kept_us"])}
        if audio
        else NOT,
        "other": NOT,
        "latest_date_of_data_acquisition": PERSON,
        "linguistic_characteristics": PERSON,
        "other_characteristics": {"sets": sorted({f"{s['set_name']} ({s['kind']})" for s in facts.sets}) or NOT},
    }


def _sources(facts: Facts) -> dict[str, Any]:
    listed = [
        {
            "source": source_name(s["name"]),
            "supplier": s["supplier"] or PERSON,
            "licence_default": s["licence_default"] or "stated per file, see licences",
            "files": s["assets"],
            "files_with_an_address": s["with_url"],
            "clips_used": s["kept"],
            "hours_used": hours(s["kept_us"]),
            "category_2.1_to_2.6": PERSON,
        }
        for s in facts.sources
    ]
    licences = [
        {"licence": r["licence"] or "not stated", "files": r["assets"], "clips_used": r["kept"], "hours_used": hours(r["kept_us"])}
        for r in facts.licences
    ]
    return {
        "sources_as_recorded": listed or NOT,
        "licences_as_recorded": licences or NOT,
        "2.1_publicly_available_datasets": PERSON,
        "2.2_private_datasets_of_third_parties": {"licensed_by_rights_holders": PERSON, "obtained_from_other_third_parties": PERSON},
        "2.3_data_crawled_and_scraped": _crawled(facts),
        "2.4_user_data": {"used": PERSON},
        "2.5_synthetic_data": _synthetic(facts),
        "2.6_other": PERSON,
    }


def _crawled(facts: Facts) -> dict[str, Any] | str:
    if not facts.domains:
        return NOT + ": no file carries an address it was fetched from"
    top = facts.domains[: max(1, math.ceil(len(facts.domains) * _TOP_SHARE))]
    return {
        "crawlers": PERSON,
        "purposes_and_behaviour": PERSON,
        "period_of_collection": PERSON,
        "domains": len(facts.domains),
        "most_relevant_domains": [
            {"domain": d["domain"] or "not readable", "files": d["assets"], "size_bytes": d["asset_bytes"]} for d in top
        ],
        "how_domains_were_chosen": "top tenth by size of the files listed; a domain is the last two labels of the host, three under a common public suffix",
    }


def _synthetic(facts: Facts) -> dict[str, Any]:
    models = sorted({f"{c['captioner']} {c['captioner_version']}" for c in facts.captioners if c["captioner"] not in ("sidecar", "facts")})
    made = [
        {
            "flag": "not recorded" if s["synthetic_flag"] is None else s["synthetic_flag"],
            "files": s["assets"],
            "files_used": s["kept_assets"],
        }
        for s in facts.synthetic
    ]
    return {"media_made_by_models": made or PERSON, "models_that_made_them": PERSON, "captions_made_by_models": models or NOT}


def _processing(facts: Facts, removals: int) -> dict[str, Any]:
    honoured = [
        f"{r['name']}: {r['measure']} {r['op']} {r['threshold']:g}, unknown: {r['on_unknown']}"
        for r in facts.policy
        if r["measure"].startswith(("optout", "reservation", "consent", "licence", "tdm"))
    ]
    words = {None: "not looked for", 0: "no reservation seen", 1: "training reserved"}
    seen = [
        {
            "state": words.get(s["optout_state"], str(s["optout_state"])),
            "consent": s["consent"] or "not stated",
            "files": s["assets"],
            "clips_used": s["kept"],
        }
        for s in facts.signals
    ]
    return {
        "3.1_rights_reservations": {
            "code_of_practice_signed": PERSON,
            "signals_seen": seen or NOT,
            "rules_that_honour_them": honoured or "none in force",
            "other_measures_before_and_after_collection": PERSON,
        },
        "3.2_illegal_content": {"hashes_removed_or_blocked": removals, "measures": PERSON},
        "3.3_other_information": PERSON,
    }


def _markdown(value: dict[str, Any], level: int) -> list[str]:
    """What stands in a section itself first, then its sections: else it would seem to belong to the last of them."""
    lines: list[str] = []
    for name, inner in sorted(value.items(), key=lambda item: isinstance(item[1], dict)):
        title = text(str(name).replace("_", " "))
        if isinstance(inner, dict):
            lines += ["", f"{'#' * min(level, 6)} {title}", "", *_markdown(inner, level + 1)]
        elif isinstance(inner, list):
            lines += [f"- **{title}**", *(f"  - {_item(i)}" for i in inner)]
        else:
            lines.append(f"- **{title}**: {text(inner)}")
    return lines


def _item(value: Any) -> str:
    return "; ".join(f"{text(k.replace('_', ' '))}: {text(v)}" for k, v in value.items()) if isinstance(value, dict) else text(value)
