"""The records of what is curated, and every column that is stored of them: Arrow type, unit, meaning.

One frozen dataclass a table; `manifests.schema` turns them into Arrow schemas. Add columns freely, never rename or retype one. What was
decided and done is in `manifests.events`.
"""

from dataclasses import dataclass

import pyarrow as pa

from manifests.columns import column
from manifests.columns import flag as _flag
from manifests.columns import score as _score
from manifests.columns import small as _small
from manifests.columns import text as _text
from manifests.columns import whole as _whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A collection with one supplier, licence default and contract."""

    source_no: int = column(pa.int32(), "dense key")
    name: str = column(pa.string(), "folder, table or archive the assets were listed from")
    supplier: str | None = _text("who delivered it, as the sidecars say")
    licence_default: str | None = _text("SPDX expression that holds where an asset states none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One ingested file, known by the hash of its bytes. Rights live here."""

    asset_id: str = column(pa.string(), "first 128 bits of the SHA-256 of the bytes, hexadecimal")
    asset_no: int = column(pa.int64(), "dense key, given at commit; -1 before", default=-1)
    asset_sha256: bytes = column(pa.binary(), "SHA-256 of the bytes")
    asset_md5: bytes = column(pa.binary(), "MD5 of the bytes, because external hash lists use it")
    size_bytes: int = column(pa.int64(), "size", "byte")
    uri: str = column(pa.string(), "where it was first found; for a tar member 'archive.tar#offset+size'")
    n_copies: int = column(pa.int32(), "how many listed files had exactly these bytes", default=1)
    source_no: int = column(pa.int32(), "collection it came from", default=0)
    kind: str | None = _text("video, image or audio, as the container shows; null when unreadable")
    # rights, read before any re-encoding
    source_url: str | None = _text("where it was fetched from (purgeable)")
    title: str | None = _text("title (purgeable)")
    creator: str | None = _text("creator, for attribution (purgeable)")
    licence_expr: str | None = _text("SPDX expression or LicenseRef; null when nothing states one")
    licence_class: int | None = _small(
        "0 commercial use allowed, 1 non-commercial, 2 academic, 3 unspecified; null when no licence is stated"
    )
    licence_evidence: str | None = _text("which file or default states the licence")
    consent: str | None = _text("consent of the people shown: given, none, not-needed")
    optout_state: int | None = _small("0 none seen, 1 training reserved; null when no signal was looked for")
    optout_signals: str | None = _text("raw signals as seen, one 'name=value' a line")
    supplied_caption: str | None = _text("caption that came with the file (purgeable)")
    canonical_url: str | None = _text("address that its publisher names as the right one (purgeable)")
    page_url: str | None = _text("page it was found on (purgeable)")
    platform: str | None = _text("platform it was published on")
    platform_id: str | None = _text("its id there (purgeable)")
    channel_id: str | None = _text("the channel or account it was published by (purgeable)")
    other_sources: str | None = _text(
        "where else the same bytes were found and who published them there: JSON lists of addresses, channels and creators (purgeable)"
    )
    rights_holder: str | None = _text("who holds the rights, where it is not the creator (purgeable)")
    licence_evidence_uri: str | None = _text("page, contract or answer that the licence was read from")
    licence_evidence_sha256: str | None = _text("SHA-256 of a copy of it, hexadecimal")
    licence_verified_by: str | None = _text("person or rule that checked the licence; null when nobody did")
    licence_verified_at: str | None = _text("when, ISO 8601")
    licence_confidence: float | None = _score("how sure the verifier is, 0 to 1")
    annotation_licence: str | None = _text("SPDX expression for captions and metadata, apart from the media")
    legal_basis: str | None = _text("licence, own, consent, tdm-exception, public-domain, user-terms or unknown")
    contract_id: str | None = _text("contracts it was delivered under, comma separated; what they permit stands in the configuration")
    consent_ref: str | None = _text("pointer to the release or consent form, never a name")
    consent_expires: str | None = _text("day after which the consent no longer holds, ISO 8601")
    acquired_at: str | None = _text("when it was fetched or delivered, ISO 8601")
    acquired_by: str | None = _text("crawler, person or supplier that fetched it")
    user_agent: str | None = _text("what the crawler called itself")
    http_status: int | None = _small("status it was fetched with")
    etag: str | None = _text("ETag at the time")
    last_modified: str | None = _text("Last-Modified at the time")
    robots_sha256: str | None = _text("SHA-256 of the robots.txt seen at the time, hexadecimal")
    robots_verdict: str | None = _text("what it said to the crawler: allowed or disallowed, as seen")
    x_robots_tag: str | None = _text("X-Robots-Tag as seen")
    tdm_reservation: int | None = _small("TDMRep: 1 reserved, 0 not; null when not seen")
    tdm_policy_url: str | None = _text("TDMRep: where the terms stand")
    aipref_raw: str | None = _text("IETF AIPREF: the Content-Usage text as seen")
    aipref_parsed: str | None = _text("our reading of it, 'category=value' comma separated; null when it could not be read")
    aipref_parser: str | None = _text("version of the parser that read it")
    optout_checks: str | None = _text("answers of opt-out registries as given, JSON")
    training_permission: str | None = _text("what is stated of training, in the word used: allowed, reserved, no_training …")
    c2pa_state: str | None = _text("Content Credentials: none, valid, untrusted, invalid or unreadable; null when not looked for")
    c2pa_train_mine: str | None = _text("their training and mining entries, one 'name=use' a line")
    c2pa_source_type: str | None = _text("their digital source type, e.g. trainedAlgorithmicMedia")
    c2pa_manifest_sha256: str | None = _text("SHA-256 of their active manifest as JSON, hexadecimal")
    synthetic_flag: int | None = _small("1 made by a model, 0 not; null when not stated")
    personal_data_flag: int | None = _small("1 shows people who can be told, 0 not; null when not stated")
    minors_flag: int | None = _small("1 shows minors, 0 not; null when not stated")
    # derived from the statements, so that rules can compare them
    reservation: float | None = _score(
        "1 when training is reserved and no contract permits it, 0 when not; null when no signal was looked for"
    )
    consent_valid: float | None = _score("1 consent given or not needed, 0 refused or expired; null when not stated")
    blocked: float | None = _score("1 when its hash or address is on the blocklist, else 0")
    # container facts
    container: str | None = _text("container format")
    vcodec: str | None = _text("video codec")
    acodec: str | None = _text("audio codec")
    duration_us: int | None = _whole("duration of the picture (of the sound for audio files)", "us")
    start_us: int | None = _whole("presentation time of the first frame", "us")
    width: int | None = _small("width as shown, after rotation and pixel aspect", "px")
    height: int | None = _small("height as shown, after rotation and pixel aspect", "px")
    rotation: int | None = _small("clockwise rotation the container asks for", "degree")
    fps_num: int | None = _small("average frame rate, numerator")
    fps_den: int | None = _small("average frame rate, denominator")
    time_base_num: int | None = _small("time base of the video stream, numerator")
    time_base_den: int | None = _small("time base of the video stream, denominator")
    n_frames: int | None = _whole("frames in the container's index, or frames that the scan saw once analysed", "frame")
    n_spared: int | None = _whole(
        "of these, frames that were not decoded: nothing refers to them, and their packets are too short to hold a change; the frame before "
        "stood for each; null before the scan",
        "frame",
    )
    is_vfr: bool | None = _flag("frame intervals vary by more than rounding")
    has_audio: bool | None = _flag("carries a sound track that opens")
    sample_rate_hz: int | None = _small("sample rate of the sound", "Hz")
    channels: int | None = _small("sound channels")
    # derived from the facts, so that rules can compare them
    readable: float | None = _score(
        "1 when the container opened, a first frame or sample decoded, and the scan found no less than its index promises, else 0"
    )
    short_side_px: float | None = _score("the smaller of width and height", "px")
    aspect_ratio: float | None = _score("longer side over shorter side")
    duration_s: float | None = _score("duration", "s")
    n_clips: float | None = _score("clips found in it; null before it was scanned")
    scan_part: str | None = _text("stem, under the dataset, of the files that its one decode left: tracks, key frames, sound")
    # what happened to it
    error_stage: str | None = _text("stage that could not do its work: ingest, probe or scan")
    error_code: str | None = _text("machine-readable reason, e.g. truncated, empty, not_media, timeout")
    error_detail: str | None = _text("expected and found, for a person")
    decision: str = column(pa.string(), "keep or drop by the asset rules; pending before", default="pending")
    first_fail_rule: int | None = _small("rule_no of the first rule that did not pass")
    state: str = column(pa.string(), "live, quarantined or removed", default="live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A training candidate: a span of one shot, one image, or a span of sound. Current state; `decisions` is the truth behind it."""

    clip_id: str = column(pa.string(), "32 hexadecimal digits from asset, kind, start and end")
    clip_no: int = column(pa.int64(), "dense key, given at commit; -1 before", default=-1)
    asset_id: str = column(pa.string(), "the asset it is cut from")
    asset_no: int = column(pa.int64(), "dense key of the asset", default=-1)
    kind: str = column(pa.string(), "video, image or audio")
    start_us: int = column(pa.int64(), "first presentation time", "us")
    end_us: int = column(pa.int64(), "end, exclusive", "us")
    shot_no: int | None = _small("index of the shot in its asset")
    n_frames: int | None = _small("frames decoded in the span", "frame")
    width: int | None = _small("width as shown", "px")
    height: int | None = _small("height as shown", "px")
    fps_num: int | None = _small("average frame rate, numerator")
    fps_den: int | None = _small("average frame rate, denominator")
    has_audio: bool | None = _flag("the asset carries sound")
    scan_part: str | None = _text("stem, under the dataset, of the files that the one decode of its asset left")
    keyframe_part: str | None = _text("file under the dataset that holds the key frames of its asset; null for sound")
    asset_kept: float | None = _score("1 when the asset passed its rules, else 0")
    duration_s: float | None = _score("end - start; 0 for images", "s")
    # scores; null = not run
    motion: float | None = _score("VMAF motion (as FFmpeg's vmafmotion at full size) at 1/24 s steps inside the clip")
    motion_vector_px: float | None = _score("mean magnitude of motion vectors, per frame step of 24 to 30 a second, at full size", "px")
    motion_vector_source: str | None = _text("codec, or estimate where the codec gives none")
    damaged_frames: float | None = _score("frames from a broken packet, or a guess of the decoder, to the next key frame", "frame")
    longest_gap_s: float | None = _score("longest time for which no new picture comes", "s")
    static_fraction: float | None = _score("share of the time in which nothing changes visibly")
    shots_per_s: float | None = _score("shots per second that a sensitive detector sees inside the clip", "1/s")
    slideshow_score: float | None = _score("share of looks that show a still picture moved slowly and evenly as one")
    loop_score: float | None = _score("how much better pictures agree one period later than in between: 1 a perfect loop")
    strobe_per_s: float | None = _score("how often the mean luma jumps and jumps back", "1/s")
    speed_ramp: float | None = _score(
        "how surely a stretch was slowed down beside a faster one, by the frames made for it; 0 shows nothing of it"
    )
    border_share: float | None = _score("share of the picture covered by borders of any kind")
    border_top: int | None = _small("border at the top, at full size", "px")
    border_bottom: int | None = _small("border at the bottom, at full size", "px")
    border_left: int | None = _small("border at the left, at full size", "px")
    border_right: int | None = _small("border at the right, at full size", "px")
    border_kind: str | None = _text(
        "none, letterbox, pillarbox, window (plain bars), blurred (a soft copy of the picture) or frame (a still graphic)"
    )
    brightness: float | None = _score("mean luma, 0 black to 1 white")
    contrast: float | None = _score("standard deviation of luma, 0 to 0.5")
    dark_fraction: float | None = _score("share of the picture at black, mean over the looks")
    bright_fraction: float | None = _score("share of the picture at white, mean over the looks")
    sharpness: float | None = _score("sharpness of edges at full size, comparable over sizes and contents: higher is sharper")
    noise: float | None = _score("standard deviation of the noise of luma at full size", "level")
    blockiness: float | None = _score("how much more luma changes across the 8 x 8 coding grid than beside it")
    interlaced: float | None = _score("share of looks in which lines of the two fields are combed")
    effective_resolution: float | None = _score("share of the nominal resolution that holds detail: low for an enlarged source")
    duplicate_fraction: float | None = _score("share of frames that repeat the frame before while the picture moves")
    colourfulness: float | None = _score("Hasler and Suesstrunk 2003 colourfulness of the key frames")
    camera: str | None = _text("camera motion class of Movie Gen, Camera-motion classes")
    camera_confidence: float | None = _score("confidence of the camera class, 0 to 1")
    shake: float | None = _score("unsteady part of the global motion, rms, picture widths a second", "1/s")
    unsteadiness: float | None = _score("how fast the picture runs and how abruptly it changes its run, long sides a second", "1/s")
    text_score: float | None = _score("highest detection x recognition score over the key frames; 0 = no text found")
    text_area: float | None = _score("largest share of a key frame covered by text boxes")
    text_unread_score: float | None = _score(
        "highest detection score of what looks like text and reads as none: unknown scripts, lone letters"
    )
    text_overlay_score: float | None = _score("as text_score, of text laid over the picture; null where a single frame cannot tell")
    subtitle_score: float | None = _score("as text_score, of short-standing lines low in the middle; null where a single frame cannot tell")
    corner_mark_score: float | None = _score("as text_score, of small lasting marks in a corner; null where a single frame cannot tell")
    corner_logo_score: float | None = _score(
        "how surely a mark without letters stands in a corner while the picture moves; null where it does not move"
    )
    scene_text_score: float | None = _score("as text_score, of text that belongs to the scene; null where a single frame cannot tell")
    text_frames: int | None = _small("key frames in which text was looked for; unchanged ones are not looked at again", "frame")
    aesthetic: float | None = _score("LAION-style aesthetic score of the middle frame")
    n_faces: int | None = _small("most faces in one of the key frames", "face")
    face_share: float | None = _score("largest share of a key frame covered by one face")
    n_people: int | None = _small("most people in one of the key frames", "person")
    person_share: float | None = _score("largest share of a key frame covered by one person's box")
    has_people: float | None = _score("1 when a person or a face was found, 0 when a person detector found none")
    single_face: float | None = _score("1 when every key frame that was looked at has exactly one face, else 0")
    identity_agreement: float | None = _score("smallest cosine between the largest faces of consecutive key frames, -1 to 1")
    action: str | None = _text("what a person does, after 'a person': the nearest of our taxonomy of human actions")
    action_score: float | None = _score("cosine of the clip's embedding and that of its action, -1 to 1")
    action_margin: float | None = _score("action_score less the cosine of the nearest description without people")
    human_action: float | None = _score("1 when found through the taxonomy of human actions, else 0")
    loudness_db: float | None = _score("RMS level of the sound, mean over its channels", "dBFS")
    silence_fraction: float | None = _score("share of 100 ms windows below the silence level; time without sound is silent")
    loudness_lufs: float | None = _score("integrated loudness, EBU R 128 (BS.1770-4, gated); null below 400 ms or all silent", "LUFS")
    loudness_range_lu: float | None = _score("loudness range, EBU Tech 3342; null below 3 s", "LU")
    peak_db: float | None = _score("largest sample of any channel", "dBFS")
    true_peak_db: float | None = _score("largest value of any channel between samples, BS.1770-4 annex 2", "dBTP")
    clipped_fraction: float | None = _score("share of samples at full scale beside another one")
    speech_fraction: float | None = _score("share of the clip's time that is speech")
    voice_score: float | None = _score("likeliest AudioSet class of the human voice, 0 to 1")
    singing_score: float | None = _score("likeliest AudioSet class of singing, 0 to 1")
    music_score: float | None = _score("likeliest AudioSet class of non-vocal music, 0 to 1")
    sound_score: float | None = _score("likeliest other AudioSet class, 0 to 1")
    audio_video_similarity: float | None = _score("cosine of the embeddings of picture and sound, -1 to 1")
    audio_class: str | None = _text("what is heard: voice, music, sound joined by '+', or none; null when not tagged")
    diegetic: str | None = _text("diegetic, non_diegetic or mixed, Movie Gen Table 24; null where the table says nothing")
    diegetic_score: float | None = _score("1 diegetic, 0.5 mixed, 0 non_diegetic: the same for rules, which compare numbers")
    audio_quality: float | None = _score("predicted quality of the sound, 1 to 10; for captions, never a filter")
    # table stages
    dup_group: str | None = _text("clip_id of the keeper of its near-duplicate group; null when alone")
    dup_rank: int | None = _small("0 keeper or alone, 1.. the rank of a copy in its group")
    dup_distance: int | None = _small("smallest PDQ Hamming distance to the keeper", "bit")
    block_distance: int | None = _small(
        "smallest PDQ distance of its pictures to those on the blocklist, 32 for more than 31; null when it holds none", "bit"
    )
    dup_similarity: float | None = _score("cosine of the copy-detection descriptors of clip and keeper; null where no network ran")
    cluster_no: int | None = _small("concept cluster after merging")
    cluster_path: str | None = _text("the cluster's place in the tree of concepts, 'top/leaf'")
    cluster_size: int | None = _small("clips in the cluster before sampling")
    keep_probability: float | None = _score("probability with which concept sampling keeps the clip")
    draw: float | None = _score("the clip's draw in [0, 1); kept when draw < keep_probability")
    concept_margin: float | None = _score("keep_probability - draw; positive when sampled")
    mix_keep: float | None = _score("1 when the landscape/portrait mix of its set keeps the clip, else 0")
    picks: str | None = _text("what people said of it, 'set=yes' or 'set=no' by set, comma separated; null where nobody said anything")
    set_name: str | None = _text("set it belongs to")
    bucket: str | None = _text("aspect x duration bucket, e.g. 16x9_128f")
    n_tokens: int | None = _small(
        "tokens of its sample in its set's transformer: latent frames x height / 16 x width / 16; 25 a second of sound"
    )
    fits_sets: str | None = _text("all sets that take it, strictest first, comma separated")
    set_fit: float | None = _score("1 when some set takes its size and duration, else 0")
    captioned: float | None = _score("1 when a caption was written for it; null when none was, or not yet")
    encoded: float | None = _score("1 when its training sample was made, else 0")
    # decision and placement
    decision: str = column(pa.string(), "keep or drop; pending before the rules ran", default="pending")
    first_fail_rule: int | None = _small("rule_no of the first rule that did not pass")
    decided_run_no: int | None = _small("run that decided")
    caption_no: int | None = _whole("row of captions in use")
    shard_no: int | None = _small("shard it is written in; null when dropped")
    error_code: str | None = _text("reason when a stage failed on this clip")
    error_detail: str | None = _text("expected and found, for a person")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A text for a clip and who or what wrote it."""

    caption_no: int = column(pa.int64(), "dense key")
    clip_no: int = column(pa.int64(), "the clip")
    text: str = column(pa.string(), "the caption (purgeable)")
    captioner: str = column(pa.string(), "sidecar, facts, or a model id")
    captioner_version: str = column(pa.string(), "version, or what the endpoint says of its model, or weights digest; and of the prompt")
    frame_digest: str | None = _text("SHA-256 (32 digits) of the pictures it was written from; null where none were sent")
    camera_prefix: str | None = _text("camera-motion words put before the text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A WebDataset tar; all its samples belong to one set and one bucket."""

    shard_no: int = column(pa.int32(), "dense key")
    path: str = column(pa.string(), "path under the dataset")
    set_name: str = column(pa.string(), "set")
    bucket: str = column(pa.string(), "bucket")
    width: int | None = _small("width of every sample", "px")
    height: int | None = _small("height of every sample", "px")
    n_frames: int | None = _small("frames of every sample; null for sound", "frame")
    fps_num: int | None = _small("frame rate of the bucket where it is one, numerator")
    fps_den: int | None = _small("frame rate of the bucket where it is one, denominator")
    size_bytes: int = column(pa.int64(), "size of the tar", "byte")
    sha256: bytes = column(pa.binary(), "SHA-256 of the tar")
    n_samples: int = column(pa.int32(), "samples in it")
    encode_digest: str = column(pa.string(), "digest of the settings that made the payloads; equal digest and clip mean equal bytes")
    created_run_no: int = column(pa.int32(), "run that wrote it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside a shard. The index that reads, verifies and serves a sample without opening the tar by name."""

    shard_no: int = column(pa.int32(), "shard")
    clip_no: int = column(pa.int64(), "clip")
    clip_id: str = column(pa.string(), "clip, also the member's stem")
    extension: str = column(pa.string(), "mp4, jpg, flac, json or txt")
    offset: int = column(pa.int64(), "first byte of the payload in the tar", "byte")
    size_bytes: int = column(pa.int64(), "payload size", "byte")
    sha256: bytes = column(pa.binary(), "SHA-256 of the payload")
    fps_num: int | None = _small("frame rate of the encoded video, numerator")
    fps_den: int | None = _small("frame rate of the encoded video, denominator")
    n_frames: int | None = _small("frames in the encoded video", "frame")
