"""`dailies backtranslate`: a model edits real clips, and what undoes its edits becomes a dataset of its own (Movie Gen Edit, stage III).

    work/                 in OUT, <clip_id>.json, .mp4 and .source.mp4: one clip, done; gone once all are in shards
    shards/edit_back/…    <clip_id>.mp4 the real clip, .source.mp4 its generated edit, .txt the words that undo it
    manifest              the clips with their own ids, assets and rights, captioned by these words

A clip has the id, the asset and the rights of the real one, so whoever owns that owns this: the run in the real dataset's manifest names
OUT, and a takedown there is one here. The paper filters edits automatically and gives no thresholds: an edit that changed nothing, or kept
nothing, is a row of the record with its reason. Instructions are those of training/edits.py; the paper has a language model write them.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests import ids
from manifests.deny import DenyList
from manifests.events import Run
from manifests.files import write_atomic
from manifests.records import Asset, Caption, Clip, Member, Shard, Source
from manifests.schema import from_table, to_table
from manifests.shards import Payload, write_shard
from manifests.tables import ManifestError, ManifestStore
from pipelines import provenance
from pipelines.one_run import LOCK, alone
from pipelines.progress import Progress

if TYPE_CHECKING:
    from training.data.config import DataConfig
    from training.data.index import Sample
    from training.exports import Export
    from training.generation import Generator

COMMAND = "backtranslate"
RUN = "run_id"
"""File of OUT that says whose it is."""
SET = "edit_back"
"""The set that stage III trains on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktranslateConfig:
    """Which clips are edited and which edits are kept. All values are ours."""

    sets: tuple[str, ...] = ()
    """Sets whose videos are edited; empty for all."""
    clips: int = 0
    """At most so many, by a keyed draw; 0 for all."""
    seed: int = 0
    max_psnr_db: float = 35.0
    """An edit nearer to the clip changed nothing."""
    min_psnr_db: float = 5.0
    """An edit farther from it kept nothing: noise is about 8 dB from a picture."""
    samples_per_shard: int = 64
    release: str = ""
    """Name of the dataset's release whose clips are edited; the newest version if empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of a clip: `made` with its words, or `dropped` with the reason."""

    clip_id: str
    status: str
    instruction: str = ""
    undo: str = ""
    psnr_db: float | None = None
    reason: str = ""


def backtranslate(
    dataset: Path,
    models: Iterable[Path],
    out: Path,
    config: BacktranslateConfig,
    device: str,
    progress: Progress,
    share: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """OUT is a dataset of the clips that the last editor under `models` edited; returns how many clips became what.

    The same command again continues; a finished one is left as it is. With `share` (k, n) only the k-th of n parts of the clips is edited, from
    1 on, so that n processes can do it on as many devices; the command without it then gathers what they made. On a GPU the editor works in
    bfloat16.
    """
    import torch

    from training.generation import MoviePipeline

    pipeline = MoviePipeline.from_folders(models, device, torch.bfloat16 if device.startswith("cuda") else torch.float32)
    editors = [e for e in pipeline.exports if e.described.get("edit")]
    if not editors:
        raise ManifestError(f"models: expected the export of a stage of editing, found {sorted({e.stage for e in pipeline.exports})}")
    store = ManifestStore(dataset)
    samples, frozen = _samples(dataset, editors[-1].described["trained_on"], config)
    chosen = {name: value for name, value in dataclasses.asdict(config).items() if name != "release"}
    settings = {"dataset": str(dataset.resolve()), "editor": editors[-1].note, "config": chosen} | ({"release": frozen} if frozen else {})
    run_id = register(store, out, settings)
    _claim(out, run_id)
    if (version := ManifestStore(out).version_of_run(run_id)) is not None:
        return {"dataset": str(out), "version": version, "clips": ManifestStore(out).read("clips").num_rows}
    editor = editors[-1]
    mine = samples if share is None else samples[share[0] - 1 :: share[1]]
    rows = []
    with progress.stage("clips edited", len(mine)) as advance:
        for sample in mine:
            rows.append(_edit(dataset, sample, lambda: pipeline.generator(editor), config, out / "work"))
            advance(1)
    if share is not None:
        return {"dataset": str(out), "share": f"{share[0]}/{share[1]}", "clips": len(rows)}
    with alone(out, COMMAND):  # a takedown comes before the list is read, and is heeded, or after the commit, and finds it
        return _gather(store, out, run_id, {s.clip_id: s for s in samples}, rows, editor, config, settings)


def _gather(
    store: ManifestStore,
    out: Path,
    run_id: str,
    samples: "dict[str, Sample]",
    rows: list[Row],
    editor: "Export",
    config: BacktranslateConfig,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What was made is OUT's set, but for what was taken down meanwhile; the work area is empty."""
    denied = DenyList(store.root).clips()
    made = [row for row in rows if row.status == "made" and row.clip_id not in denied]
    write_atomic(out / "record.json", json.dumps([dataclasses.asdict(r) for r in rows if r.clip_id not in denied], indent=1).encode())
    if not made:
        raise ManifestError(f"{out}: expected edits to keep, found none of {len(rows)}: {Counter(r.reason.split(',')[0] for r in rows)}")
    version = _commit(store, out, run_id, samples, made, editor, config, settings)
    for path in (out / "work").iterdir():
        if path.name != LOCK:
            path.unlink()
    counts = Counter(row.status for row in rows)
    return {"dataset": str(out), "version": version, "clips": len(made), "dropped": counts["dropped"]}


def _claim(out: Path, run_id: str) -> None:
    """OUT is this run's; ManifestError when it is another's: what that one made would be told as this one's."""
    path = out / RUN
    if not path.exists():
        if ManifestStore(out).version() >= 0:
            raise ManifestError(f"{out}: expected an empty folder or one of this command, found another dataset; use another --out")
        write_atomic(path, run_id.encode())
    elif (found := path.read_text()) != run_id:
        raise ManifestError(
            f"{out}: expected edits of run {run_id}, found those of {found}: other settings or another editor; use another --out"
        )


def derived_datasets(store: ManifestStore) -> list[Path]:
    """The datasets that were made of this one by this command, where they still are."""
    return [folder for folder in derived_folders(store) if (folder / "manifest").exists() or (folder / "work").exists()]


def derived_folders(store: ManifestStore) -> list[Path]:
    """The folders that this command was told to make datasets of this one in, there or not."""
    runs = store.read("runs", columns=["command", "config_json"]).to_pylist()
    named = (json.loads(r["config_json"]).get("folder") for r in runs if r["command"] == COMMAND)  # the run in OUT itself names none
    return [Path(folder) for folder in sorted(set(filter(None, named)))]


def forget_work(out: Path, clip_ids: Iterable[str]) -> None:
    """Nothing of the clips is left of a run that has not ended."""
    for clip in clip_ids:
        for path in (out / "work").glob(f"{clip}.*"):
            path.unlink(missing_ok=True)


def register(store: ManifestStore, out: Path, settings: dict[str, Any]) -> str:
    """Before anything is made, the real dataset's manifest names OUT; gives the run's id. DatasetBusy beside a command that commits to it."""
    config_json = json.dumps({"folder": str(out.resolve()), **settings}, sort_keys=True)
    run_id = ids.digest("backtranslate/v1", config_json)
    if store.version_of_run(run_id) is not None:
        return run_id
    with alone(store.root, COMMAND):
        store.commit(run_id, append={"runs": to_table(Run, [_run(store, run_id, config_json)])})
    return run_id


def _samples(dataset: Path, trained: dict[str, Any], config: BacktranslateConfig) -> "tuple[list[Sample], dict[str, str] | None]":
    """(the clips to be edited, the release that they are of): what the editor was measured on too, if it will be held out again."""
    from training.data.index import frozen_version, hold_out_groups, load_samples, split_holdout

    version, frozen = frozen_version(dataset, config.release)
    denied, frames = DenyList(dataset).clips(), int(trained["n_frames"])
    samples = load_samples(dataset, version)
    found = [s for s in samples if s.kind == "video" and (not config.sets or s.set_name in config.sets)]
    usable = [s for s in found if s.clip_id not in denied and (s.n_frames or 0) >= frames]
    if not usable:
        raise ManifestError(f"{dataset}: expected videos of at least {frames} frames, found none among {len(found)}")
    usable.sort(key=lambda s: ids.uniform("backtranslate/v1", config.seed, s.clip_id))
    chosen = usable[: config.clips or None]
    if not (share := float(trained.get("holdout_share") or 0)):
        return chosen, frozen
    held = {s.clip_id for s in split_holdout(samples, share)[1]}
    if not any(s.clip_id in held for s in chosen):
        if (one := next((s for s in usable if s.clip_id in held), None)) is None:
            return chosen, frozen  # nothing of what was held out can be edited: the next stage has to hold out some of the others
        chosen = [*chosen[:-1], one]
    # A group of the edits may be named otherwise than in the whole dataset: what would change sides there is left out.
    clips = ManifestStore(dataset).read("clips", version)
    groups = hold_out_groups(clips.filter(pc.is_in(clips.column("clip_id"), value_set=pa.array([s.clip_id for s in chosen]))))
    again = {s.clip_id for s in split_holdout([dataclasses.replace(s, group=groups[s.clip_id]) for s in chosen], share)[1]}
    return [s for s in chosen if (s.clip_id in held) == (s.clip_id in again)], frozen


def _edit(dataset: Path, sample: "Sample", editor: "Callable[[], Generator]", config: BacktranslateConfig, work: Path) -> Row:
    """What became of the clip; its real and its edited pictures lie in `work`, the row last."""
    from training.errors import SampleError

    path = work / f"{sample.clip_id}.json"
    if path.exists():
        return Row(**json.loads(path.read_bytes()))
    try:
        row = _make(dataset, sample, editor(), config, work)
    except SampleError as error:
        row = Row(clip_id=sample.clip_id, status="dropped", reason=f"broken, {error}"[:500])
    write_atomic(path, json.dumps(dataclasses.asdict(row)).encode())
    return row


def _make(dataset: Path, sample: "Sample", editor: "Generator", config: BacktranslateConfig, work: Path) -> Row:
    import torch

    from training import edits, keyed
    from training.data.batch import to_tensor
    from training.data.sample import load_pixels
    from training.film import Film, encode_film
    from training.losses import psnr_db
    from training.tasks.edit import EditTask

    key = ("backtranslate/v1", config.seed, sample.clip_id)
    real = load_pixels(dataset, sample, _form(editor.trained), None, DenyList(dataset))
    x = to_tensor([real]).to(next(editor.model.parameters()))
    kind = edits.KINDS[keyed.integer(0, len(edits.KINDS), *key, "kind")]
    _, instruction = kind.make(torch.zeros(3, 1, 16, 16), key)
    task = editor.task
    if not isinstance(task, EditTask):
        raise ManifestError(f"{editor.export.folder}: expected the export of a stage of editing, found stage {editor.export.stage}")
    with torch.no_grad():
        made = task.edit(editor.model, x, [instruction], *key)
    apart = psnr_db(made[0].float(), x[0].float())
    row = Row(clip_id=sample.clip_id, status="made", instruction=instruction, undo=edits.undo_of(instruction), psnr_db=apart)
    if not config.min_psnr_db <= apart <= config.max_psnr_db:
        what = "unchanged" if apart > config.max_psnr_db else "lost"
        expected = f"{config.min_psnr_db:g} to {config.max_psnr_db:g}"
        return dataclasses.replace(row, status="dropped", reason=f"{what}, expected {expected} dB from the clip, found {apart:.1f}")
    fps = Fraction(sample.fps_num or 24, sample.fps_den or 1)
    shown = ((made[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
    note = {"clip_id": sample.clip_id, "instruction": instruction, "models": {"editor": editor.export.note}}
    work.mkdir(parents=True, exist_ok=True)
    Film(frames=shown, fps=fps, made_from=note).save(work / f"{sample.clip_id}.source.mp4")
    write_atomic(work / f"{sample.clip_id}.mp4", encode_film(Film(frames=real, fps=fps)))
    return row


def _form(trained: dict[str, Any]) -> "DataConfig":
    """The form that an editor was trained on: whole pictures of it, not crops."""
    from training.data.config import DataConfig

    size = int(trained["size_px"])
    return DataConfig(size_px=size, resize_px=size, n_frames=int(trained["n_frames"]), shapes=trained.get("shapes", "square"))


def _commit(
    store: ManifestStore,
    out: Path,
    run_id: str,
    samples: "dict[str, Sample]",
    made: list[Row],
    editor: "Export",
    config: BacktranslateConfig,
    settings: dict[str, Any],
) -> int:
    """OUT's manifest holds the made clips, with sources, assets and rights as the real dataset has them now."""
    from training.data.shapes import Shape, shape_of

    made, data = sorted(made, key=lambda row: row.clip_id), _form(editor.described["trained_on"])
    clips = {c.clip_id: c for c in from_table(Clip, store.read("clips")) if c.clip_id in samples}
    assets = [a for a in from_table(Asset, store.read("assets")) if a.asset_id in {clips[r.clip_id].asset_id for r in made}]
    rights = {a.asset_id: a for a in assets}
    shards: list[Shard] = []
    members: list[Member] = []
    numbers = {row.clip_id: i for i, row in enumerate(made)}
    shapes = {row.clip_id: shape_of(samples[row.clip_id], data.shapes, data.size_px, data.n_frames) for row in made}
    parts: list[tuple[Shape, list[Row]]] = []
    for shape in sorted(set(shapes.values()), key=str):
        alike = [row for row in made if shapes[row.clip_id] == shape]
        parts += [(shape, alike[i : i + config.samples_per_shard]) for i in range(0, len(alike), config.samples_per_shard)]
    for shard_no, (shape, part) in enumerate(parts):
        bucket, form = f"{shape.width}x{shape.height}_{shape.n_frames}f", dataclasses.asdict(shape)
        path = f"shards/{SET}/{bucket}/{SET}-{bucket}-{shard_no:06d}-{run_id[:8]}.tar"
        texts = {r.clip_id: _facts(r, clips[r.clip_id], rights[clips[r.clip_id].asset_id], editor) for r in part}
        written = write_shard(out / path, (p for r in part for p in _payloads(r, out / "work", texts[r.clip_id])))
        for m in written.members:
            member = Member(shard_no=shard_no, clip_no=numbers[m.clip_id], **dataclasses.asdict(m))
            if m.extension.endswith("mp4"):
                rate = (samples[m.clip_id].fps_num, samples[m.clip_id].fps_den)
                member = dataclasses.replace(member, fps_num=rate[0], fps_den=rate[1], n_frames=shape.n_frames)
            members.append(member)
        shards.append(
            Shard(
                shard_no=shard_no, path=path, set_name=SET, bucket=bucket, **form, size_bytes=written.size_bytes, sha256=written.sha256,
                n_samples=len(part), encode_digest=ids.digest("backtranslate/encode/v1", *form.values())[:16], created_run_no=0,
            )
        )  # fmt: skip
    buckets = {m.clip_no: shards[m.shard_no].bucket for m in members}
    named = {"decision": "keep", "set_name": SET, "keyframe_part": None, "scan_part": None, "has_audio": False}
    shard_of = {m.clip_no: m.shard_no for m in members}
    kept = [
        dataclasses.replace(clips[r.clip_id], clip_no=i, caption_no=i, shard_no=shard_of[i], bucket=buckets[i], **named)
        for i, r in enumerate(made)
    ]
    said = {"captioner": "backtranslation", "captioner_version": editor.sha256[:32]}
    tables = {
        "sources": to_table(Source, [s for s in from_table(Source, store.read("sources")) if s.source_no in {a.source_no for a in assets}]),
        "assets": to_table(Asset, [dataclasses.replace(a, scan_part=None) for a in assets]),
        "clips": to_table(Clip, kept),
        "captions": to_table(Caption, [Caption(caption_no=i, clip_no=i, text=r.undo, **said) for i, r in enumerate(made)]),
        "shards": to_table(Shard, shards),
        "members": to_table(Member, members),
        "runs": to_table(Run, [_run(ManifestStore(out), run_id, json.dumps(settings, sort_keys=True))]),
    }
    return ManifestStore(out).commit(run_id, append=tables)


def _payloads(row: Row, work: Path, facts: dict[str, Any]) -> Iterable[Payload]:
    """A sample's files; its own comes first, as readers take the first for the clip."""
    for extension in ("mp4", "source.mp4"):
        yield Payload(clip_id=row.clip_id, extension=extension, data=(work / f"{row.clip_id}.{extension}").read_bytes())
    yield Payload(clip_id=row.clip_id, extension="json", data=json.dumps(facts, sort_keys=True, ensure_ascii=False).encode())
    yield Payload(clip_id=row.clip_id, extension="txt", data=row.undo.encode())


def _facts(row: Row, clip: Clip, asset: Asset, editor: "Export") -> dict[str, Any]:
    """What a reader of the tar alone should know: the real clip, its rights, and who edited it how."""
    return {
        "clip_id": clip.clip_id,
        "asset_id": clip.asset_id,
        "set": SET,
        "start_us": clip.start_us,
        "end_us": clip.end_us,
        "edit": {"instruction": row.instruction, "undo": row.undo, "psnr_db": row.psnr_db, "editor": editor.note},
        "rights": {n: getattr(asset, n) for n in ("licence_expr", "source_url", "title", "creator", "consent")},
    }


def _run(store: ManifestStore, run_id: str, config_json: str) -> Run:
    now = datetime.now(UTC)
    return Run(
        run_no=store.read("runs", columns=["run_no"]).num_rows if store.version() >= 0 else 0,
        run_id=run_id,
        command=COMMAND,
        inputs_digest=run_id,
        code_version=provenance.code_version(),
        config_sha256=hashlib.sha256(config_json.encode()).hexdigest(),
        config_json=config_json,
        parent_version=store.version() if store.version() >= 0 else None,
        started_at=now,
        ended_at=now,
    )
