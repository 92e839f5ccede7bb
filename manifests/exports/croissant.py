"""`croissant.json`: the release as MLCommons Croissant 1.1 with the RAI extension, W3C PROV-O and use conditions.

Written as plain JSON-LD, because mlcroissant's classes know neither PROV nor usageInfo and take seconds to import; a test validates it
with mlcroissant and reads records through it. Paths are relative to the release's folder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from manifests.exports.facts import Facts, hours
from manifests.release_file import Entry
from manifests.schema import TABLES, arrow_schema

NAME = "croissant.json"
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
SHOWN = ("assets", "clips", "captions", "shards", "members", "rules")
"""Tables that become record sets. `assets` carries the licence of each medium."""

_TYPES = {
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.int32(): "sc:Integer",
    pa.int64(): "sc:Integer",
    pa.float32(): "sc:Float",
    pa.float64(): "sc:Float",
}
_EQUIVALENT = {("assets", "licence_expr"): "sc:license", ("assets", "creator"): "sc:creator", ("assets", "source_url"): "sc:url"}


def write_croissant(facts: Facts, tables: Mapping[str, Sequence[Entry]]) -> dict[str, Any]:
    """The document as a dict. `tables` are the Parquet files of each table, paths under the dataset."""
    shown = [t for t in SHOWN if tables.get(t)]
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{facts.dataset}-{facts.name}",
        "description": _description(facts),
        "version": f"{facts.version}.0.0",
        "datePublished": facts.created_at.date().isoformat(),
        "license": _licences(facts),
        "url": "README.md",
        "citeAs": f"{facts.dataset}, release {facts.name}, Merkle root {facts.root}",
        "keywords": ["video", "curation", *sorted({str(s["set_name"]) for s in facts.sets})],
        "isLiveDataset": False,
        "distribution": [part for t in shown for part in _distribution(t, tables[t])] + [_shards()],
        "recordSet": [_record_set(t, n, len(tables[t])) for t in shown for n in range(len(tables[t]))],
        "usageInfo": _usage(facts),
        **_provenance(facts),
        **_responsible(facts),
    }


def _context() -> dict[str, Any]:
    cr = (
        "arrayShape citeAs column containedIn equivalentProperty extract field fileProperty fileObject fileSet format includes isArray "
        "isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
        "subField transform"
    )
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "prov": "http://www.w3.org/ns/prov#",
        "odrl": "http://www.w3.org/ns/odrl/2/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "description": {"@container": "@language"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
        **{word: f"cr:{word}" for word in cr.split()},
    }


def _description(facts: Facts) -> str:
    parts = ", ".join(f"{k['kept']:,} {k['kind']} clips" for k in facts.kinds if k["kept"]) or "no clips"
    return (
        f"Release {facts.name} of {facts.dataset}, version {facts.version}: {parts}, {hours(facts.kept_us)} hours, as WebDataset shards with a "
        "manifest that holds every asset and clip, kept or dropped, every rule with its threshold, and every verdict."
    )


def _licences(facts: Facts) -> list[str]:
    found = sorted({str(r["licence"]) for r in facts.licences if r["kept"] and r["licence"]})
    return found or ["NOASSERTION"]


def _distribution(table: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": f"{table}-{n}.parquet",
            "name": f"{table}-{n}.parquet",
            "description": f"Parquet file {n + 1} of {len(entries)} of the table {table}.",
            "contentUrl": f"../../{e.path}",
            "contentSize": f"{e.size_bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": e.sha256,
        }
        for n, e in enumerate(entries)
    ]


def _shards() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "shard-files",
        "name": "shard-files",
        "description": "WebDataset tars: members <clip_id>.mp4, .jpg or .flac with .json and .txt. Path, size and SHA-256 of each are in the table shards.",
        "encodingFormat": "application/x-tar",
        "includes": "../../shards/*/*/*.tar",
    }


def _record_set(table: str, part: int, parts: int) -> dict[str, Any]:
    """The rows of one Parquet file: mlcroissant validates a FileSet over several of them and then cannot read it."""
    name = table if parts == 1 else f"{table}-{part}"
    first_line = (TABLES[table].__doc__ or table).splitlines()[0] + ("" if parts == 1 else f" Part {part + 1} of {parts}.")
    fields = [_field(table, name, f, part) for f in arrow_schema(TABLES[table]) if f.type in _TYPES]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": first_line, "field": fields}


def _field(table: str, record_set: str, field: pa.Field, part: int) -> dict[str, Any]:
    metadata = field.metadata or {}
    unit = metadata.get(b"unit", b"").decode()
    out: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{field.name}",
        "name": field.name,
        "description": metadata.get(b"doc", field.name.encode()).decode() + (f" [{unit}]" if unit else ""),
        "dataType": _TYPES[field.type],
        "source": {"fileObject": {"@id": f"{table}-{part}.parquet"}, "extract": {"column": field.name}},
    }
    if (table, field.name) in _EQUIVALENT:
        out["equivalentProperty"] = _EQUIVALENT[table, field.name]
    return out


def _usage(facts: Facts) -> dict[str, Any]:
    duties = [{"odrl:action": {"@id": "odrl:attribute"}, "sc:description": "Creators and licences are listed in attribution.csv."}]
    return {
        "@type": "odrl:Set",
        "sc:description": "Licences hold per medium (assets/licence_expr), not for the collection; they are claims with evidence, not judgements.",
        "odrl:duty": duties if any("BY" in str(r["licence"]) for r in facts.licences if r["kept"]) else [],
    }


def _provenance(facts: Facts) -> dict[str, Any]:
    return {
        "prov:wasDerivedFrom": [
            {
                "@type": "prov:Entity",
                "prov:label": f"source {s['source_no']}",
                "sc:description": f"{s['assets']} assets, {s['kept']} clips kept",
            }
            for s in facts.sources
        ],
        "prov:wasGeneratedBy": [
            {
                "@type": "prov:Activity",
                "@id": f"urn:dailies:run:{r['run_id']}",
                "prov:label": str(r["command"]),
                **(
                    {"prov:startedAtTime": r["started_at"].isoformat(), "prov:endedAtTime": r["ended_at"].isoformat()}
                    if r["started_at"] and r["ended_at"]
                    else {}
                ),
                "prov:wasAssociatedWith": {"@type": "prov:SoftwareAgent", "prov:label": f"dailies {r['code_version']}"},
            }
            for r in facts.runs
        ],
    }


def _responsible(facts: Facts) -> dict[str, Any]:
    """The RAI properties: what the tables know, and for the rest who has to say it."""
    person = "To be provided by the provider."
    models = sorted({str(c["captioner"]) for c in facts.captioners} - {"sidecar"})
    unread = next((k["assets"] for k in facts.kinds if k["kind"] == "unreadable"), 0)
    rules = "; ".join(f"{r['name']}: {r['measure']} {r['op']} {r['threshold']:g} {r['unit']}".strip() for r in facts.policy)
    values = {
        "dataCollection": f"{sum(k['assets'] for k in facts.kinds):,} files listed from {len(facts.sources)} sources; each is known by the SHA-256 of its bytes.",
        "dataCollectionType": "Existing datasets and files" if facts.sources else person,
        "dataCollectionMissingData": f"{unread} files could not be read; their reasons are in assets/error_code. A score that was not measured is null.",
        "dataCollectionRawData": "Originals stay where they were listed from (assets/uri); shards hold re-encoded excerpts.",
        "dataImputationProtocol": "Nothing is imputed: unknown is never a pass unless the rule says so (rules/on_unknown).",
        "dataPreprocessingProtocol": f"Split into clips, measured, decided by these rules in order: {rules or 'none'}.",
        "dataManipulationProtocol": "Kept clips are cut, scaled to their bucket and re-encoded; nothing else is changed.",
        "dataAnnotationProtocol": "Captions come from sidecars, measured facts or models; captions/captioner names which."
        if facts.captioners
        else "No captions.",
        "dataAnnotationPlatform": "Not applicable: no crowd platform is used.",
        "dataAnnotationAnalysis": person,
        "annotationsPerItem": "One caption a kept clip." if facts.captioners else "None.",
        "annotatorDemographics": person,
        "machineAnnotationTools": ", ".join(models) or "None.",
        "dataUseCases": "Training of generative models of video, image and sound. Other uses: " + person,
        "dataBiases": "Shares by source, licence, set and concept are in report.html; what they mean for a use: " + person,
        "dataLimitations": "Scores come from programs and networks and err; licences are claims with evidence. Further: " + person,
        "dataSocialImpact": person,
        "personalSensitiveInformation": "People may be shown; consent as stated is in assets/consent, counts of people and faces in clips/n_people and clips/n_faces.",
        "dataReleaseMaintenancePlan": "Takedowns amend a release (amendments.jsonl) and publish hashes (removals.jsonl). Dates of the next release: "
        + person,
    }
    dates = [r[n].isoformat() for r in facts.runs for n in ("started_at", "ended_at") if r[n]]
    frame = {"rai:dataCollectionTimeFrame": [min(dates), max(dates)]} if dates else {}  # of the runs that took the files in
    return {f"rai:{name}": value for name, value in values.items()} | frame
