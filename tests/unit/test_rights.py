"""Rights as stated: licences, signals, contracts, rights tables and Content Credentials; what is not understood never passes."""

import dataclasses
import io
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import credentials, rights
from curation.ingest import IngestConfig, complete
from curation.isolate import Sandbox
from curation.licences import parse_licence
from curation.listed import InputError
from curation.optouts import parse_content_usage, reserves, reserves_by_credentials
from curation.rights import ContractConfig, RightsConfig
from curation.rights_table import RightsTable
from manifests.records import Asset

TODAY = date(2026, 11, 25)


def _asset(**given_fields: Any) -> Asset:
    named = {"asset_id": "a" * 32, "asset_sha256": b"s" * 32, "asset_md5": b"m" * 16, "size_bytes": 1, "uri": "/in/a.mp4"}
    return Asset(**(named | given_fields))


def _stated(fields: dict[str, Any]) -> Asset:
    return rights.put(_asset(), rights.from_fields(fields, "x"))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("LicenseRef-pexels", ("LicenseRef-pexels", 3)),
        ("LicenseRef-academic-only OR cc0-1.0", ("LicenseRef-academic-only OR CC0-1.0", 0)),
        ("LicenseRef-never-heard-of AND CC0-1.0", ("LicenseRef-never-heard-of AND CC0-1.0", 3)),
        ("CC-BY-ND-4.0", ("CC-BY-ND-4.0", 3)),
        ("CC-BY-99.0", ("CC-BY-99.0", 3)),
        ("GPL-3.0-only WITH Classpath-exception-2.0", ("GPL-3.0-only WITH Classpath-exception-2.0", 3)),
        ("NOASSERTION", ("NOASSERTION", 3)),
    ],
)
def test_only_registered_licences_are_classed(stated: str, expected: tuple[str, int]) -> None:
    """A name that neither SPDX nor we know is kept as stated and unspecified, also where it only looks like one."""
    assert parse_licence(stated) == expected


def test_a_configured_licence_reference_has_its_class() -> None:
    """`rights.licences` classes a vendor's reference, alone and in expressions."""
    own = {"LicenseRef-vendor-acme": "commercial"}
    assert parse_licence("LicenseRef-vendor-acme", own) == ("LicenseRef-vendor-acme", 0)  # type: ignore[arg-type]
    assert parse_licence("LicenseRef-vendor-acme AND CC-BY-NC-4.0", own)[1] == 1  # type: ignore[arg-type]
    settled = rights.settle(_stated({"licence": "LicenseRef-vendor-acme"}), RightsConfig(licences=own), TODAY)  # type: ignore[arg-type]
    assert settled.licence_class == 0


@pytest.mark.parametrize(
    ("fields", "reserved"),
    [
        ({"training": "allowed"}, 0),
        ({"training": "no_training"}, 1),
        ({"training": None}, 1),
        ({"tdm_reservation": 0}, 0),
        ({"tdm-reservation": "1"}, 1),
        ({"tdm_reservation": "maybe"}, 1),
        ({"x_robots_tag": "noindex, nofollow"}, 0),
        ({"x_robots_tag": "NoAI"}, 1),
        ({"content_usage": "train-ai=n"}, 1),
        ({"content_usage": "train-ai=y, search=y"}, 0),
        ({"content_usage": "train-ai=y, someday-invented=n"}, 1),
        ({"content_usage": "((("}, 1),
        ({"robots_verdict": "disallowed"}, 1),
        ({"training": "allowed", "x_robots_tag": "noml"}, 1),
        ({"licence": "CC0-1.0"}, 0),
        ({"tdm_reservation": 1, "tdm-reservation": 0}, 1),
        ({"tdm_reservation": 0, "tdm-reservation": 1}, 1),
        ({"tdm_reservation": None, "tdm-reservation": 1}, 1),
        ({"tdm_reservation": 1, "tdm-reservation": None}, 1),
        ({"content_usage": "train-ai=n", "aipref": "train-ai=y"}, 1),
    ],
)
def test_signals_reserve_as_they_say(fields: dict[str, Any], reserved: int) -> None:
    """Every kind of signal is understood or reserves; one reservation among permissions reserves, also under another name of the signal."""
    assert rights.from_fields(fields, "x").optout_state == reserved


def test_preferences_are_stored_raw_and_as_understood() -> None:
    """AIPREF: the raw text, our reading of it, and the version of the parser; a text that cannot be read has no reading."""
    found = rights.from_fields({"content_usage": 'train-ai=n;x=1, bots="y", search'}, "x")
    assert (found.aipref_raw, found.aipref_parsed) == ('train-ai=n;x=1, bots="y", search', 'bots="y", search=?1, train-ai=n')
    assert found.aipref_parser == "dictionary/1"
    assert rights.from_fields({"content_usage": "a b c"}, "x").aipref_parsed is None


@given(st.text(max_size=60))
def test_no_text_breaks_the_preference_parser(text: str) -> None:
    """Any text is a dictionary or none, and only a dictionary of `y` does not reserve."""
    found = parse_content_usage(text)
    assert reserves("content_usage", text) == (found is None or any(v != "y" for v in found.values()))


@pytest.mark.parametrize(
    ("contract", "contracts", "expected"),
    [
        ("acme", {"acme": ContractConfig(training=True)}, 0),
        ("acme", {"acme": ContractConfig(training=True, expires="2026-11-25")}, 0),
        ("acme", {"acme": ContractConfig(training=True, expires="2026-11-24")}, 1),
        ("acme", {}, 1),
        ("acme, other", {"acme": ContractConfig(training=True), "other": ContractConfig(training=False)}, 1),
        (None, {"acme": ContractConfig(training=True)}, 1),
    ],
)
def test_only_a_contract_of_the_configuration_lifts_no_training(
    contract: str | None, contracts: dict[str, ContractConfig], expected: int
) -> None:
    """`no_training` stands unless a contract that the configuration holds permits training, has not ended, and none forbids it."""
    asset = dataclasses.replace(_stated({"training": "no_training"}), contract_id=contract)
    assert rights.settle(asset, RightsConfig(contracts=contracts), TODAY).reservation == expected


def test_a_contract_that_forbids_reserves_without_any_signal() -> None:
    """A contract without training is a reservation of its own; without signals and contracts nothing is known."""
    config = RightsConfig(contracts={"acme": ContractConfig(training=False)})
    assert rights.settle(_asset(contract_id="acme"), config, TODAY).reservation == 1
    assert rights.settle(_asset(), config, TODAY).reservation is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"consent": "given"}, 1),
        ({"consent": "given", "consent_expires": "2026-11-25"}, 1),
        ({"consent": "given", "consent_expires": "2026-11-24"}, 0),
        ({"consent": "given", "consent_expires": "soon"}, 0),
        ({"consent": "none"}, 0),
        ({"consent": "withdrawn"}, 0),
        ({}, None),
    ],
)
def test_consent_ends_and_can_be_refused(fields: dict[str, Any], expected: float | None) -> None:
    """Only a consent that is given or not needed, and has not ended, is one."""
    assert rights.settle(_stated(fields), RightsConfig(), TODAY).consent_valid == expected


def test_the_strictest_statement_wins_whoever_makes_it() -> None:
    """Merging is strict both ways round: class, reservation, consent, flags; contracts and signals of both are kept."""
    mild = rights.from_fields({"licence": "CC0-1.0", "training": "allowed", "consent": "given", "minors_flag": 0, "contract": "b"}, "mild")
    strict = rights.from_fields(
        {"licence": "CC-BY-NC-4.0", "training": "reserved", "consent": "none", "minors_flag": "1", "contract": "a"}, "strict"
    )
    for found in (rights.merge(mild, strict), rights.merge(strict, mild)):
        assert (found.licence_expr, found.licence_class, found.licence_evidence) == ("CC-BY-NC-4.0", 1, "strict")
        assert (found.optout_state, found.consent, found.minors_flag, found.contract_id) == (1, "none", 1, "a, b")
        assert set((found.optout_signals or "").splitlines()) == {"training=allowed", "training=reserved"}


def test_precedence_is_table_then_sidecar_then_default(tmp_path: Path) -> None:
    """Of each field the first statement counts: rights table, sidecar, source default; a default never replaces a licence but reserves."""
    (tmp_path / "r.csv").write_text("file,creator,licence_verified_by\na.mp4,desk,me\nz*.mp4,nobody,\n")
    sidecar = _stated({"creator": "sidecar", "title": "sidecar", "licence": "CC-BY-NC-4.0", "training": "allowed"})
    fields = {
        "creator": "default",
        "title": "default",
        "supplier": "s",
        "licence": "CC0-1.0",
        "tdm_reservation": 1,
        "rights_holder": "default",
    }
    table = RightsTable(tmp_path / "r.csv")
    found = complete(sidecar, ["src"], IngestConfig(source_defaults={"src": fields}), table)
    assert (found.creator, found.title, found.rights_holder, found.licence_verified_by) == ("desk", "sidecar", "default", "me")
    assert (found.licence_expr, found.licence_class, found.optout_state) == ("CC-BY-NC-4.0", 1, 1)
    assert table.unused() == [3]
    bare = complete(_asset(), ["src"], IngestConfig(source_defaults={"src": fields}))
    assert (bare.licence_expr, bare.licence_evidence) == ("CC0-1.0", "source default")
    assert complete(_asset(), ["elsewhere"], IngestConfig(source_defaults={"src": fields})).licence_expr is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,trainig\na.mp4,allowed\n", "expected columns among .* found trainig"),
        ("creator\nme\n", "expected a column named file or sha256"),
        ("file,creator\na.mp4\n", "line 2: expected as many values as columns"),
        ("sha256,creator\nxyz,me\n", "line 2: expected a SHA-256"),
        ("file,creator\n,me\n", "line 2: expected a file or a sha256"),
        ("file,training,training\na.mp4,reserved,allowed\n", "expected every column once, found training more than once"),
        ("file,minors_flag\na.mp4,0\nb.mp4,yes\n", "line 3: minors_flag: expected 0 or 1, found 'yes'"),
        ("file,personal_data_flag\na.mp4,2\n", "line 2: personal_data_flag: expected 0 or 1"),
        ("file,http_status\na.mp4,OK\n", "line 2: http_status: expected a whole number"),
        ("file,licence_confidence\na.mp4,90 %\n", "line 2: licence_confidence: expected a number from 0 to 1"),
        ("file,creator\na.mp4,me,you\n", "line 2: expected as many values as columns, found 3 for 2"),
    ],
)
def test_a_wrong_rights_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A mistyped column or value stops the run and names the line: it could be a licence to train."""
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        RightsTable(tmp_path / "r.csv")


def test_rights_tables_find_files_by_path_name_glob_and_hash(tmp_path: Path) -> None:
    """A row names files by relative path, bare name, glob or SHA-256; with both file and hash, both must hold."""
    rows = ["sub/a.mp4,,path", "a.mp4,,name", "*.mp4,,glob", f",{'73' * 32},hash", f"b.mp4,{'73' * 32},other file"]
    (tmp_path / "r.csv").write_text("file,sha256,creator\n" + "\n".join(rows) + "\n")
    table = RightsTable(tmp_path / "r.csv")
    assert [r.creator for r in table.of(_asset(uri=str(tmp_path / "sub" / "a.mp4")))] == ["path", "name", "glob", "hash"]
    assert [r.creator for r in table.of(_asset(uri="/y/x.mov", asset_sha256=b"0" * 32))] == []


def test_unknown_fields_of_source_defaults_are_refused() -> None:
    """A mistyped default is an error, not a silence."""
    with pytest.raises(ValueError, match="found trainig"):
        IngestConfig(source_defaults={"src": {"trainig": "reserved"}})


def _sign(source: Path, kind: str, entries: dict[str, Any]) -> tuple[bytes, str]:
    """The file with Content Credentials signed by a made-up authority, and that authority as PEM."""
    c2pa = pytest.importorskip("c2pa")
    from tests.c2pa_authority import make_authority

    certificates, key, anchor = make_authority()
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, certificates, key, None))
    kind_of = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assertions = [
        {"label": "c2pa.actions", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": kind_of}]}},
        {"label": "cawg.training-mining", "data": {"entries": entries}},
    ]
    manifest = {"claim_generator_info": [{"name": "test", "version": "1"}], "title": "t", "assertions": assertions}
    out = io.BytesIO()
    with source.open("rb") as stream:
        c2pa.Builder(manifest).sign(signer, kind, stream, out)
    return out.getvalue(), anchor


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small JPEG."""
    from PIL import Image

    path = tmp_path_factory.mktemp("credentials") / "plain.jpg"
    Image.effect_noise((64, 64), 40).convert("RGB").save(path)
    return path


def test_content_credentials_are_read_in_the_sandbox(tmp_path: Path, picture: Path) -> None:
    """Signed by somebody trusted they are valid, by a stranger untrusted, changed invalid; a file without any has none."""
    entries = {"cawg.ai_generative_training": {"use": "notAllowed"}, "cawg.ai_inference": {"use": "allowed"}}
    data, anchor = _sign(picture, "image/jpeg", entries)
    signed, broken = tmp_path / "signed", tmp_path / "broken"
    signed.write_bytes(data)
    at = len(data) // 2
    broken.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    with Sandbox(60, 4 << 30) as sandbox:

        def read(path: Path, anchors: str = "") -> credentials.Credentials:
            return sandbox.call(credentials.read_credentials, str(path), anchors)

        trusted = read(signed, anchor)
        assert (trusted.c2pa_state, read(signed).c2pa_state, read(broken, anchor).c2pa_state) == ("valid", "untrusted", "invalid")
        assert read(picture).c2pa_state == "none"
    assert trusted.c2pa_train_mine == "cawg.ai_generative_training=notAllowed\ncawg.ai_inference=allowed"
    assert trusted.c2pa_source_type == "trainedAlgorithmicMedia"
    asset = rights.settle(rights.with_credentials(_stated({"training": "allowed", "licence": "CC0-1.0"}), trusted), RightsConfig(), TODAY)
    assert (asset.optout_state, asset.reservation, asset.synthetic_flag) == (1, 1, 1)
    assert "c2pa=cawg.ai_generative_training=notAllowed" in (asset.optout_signals or "")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], False),
        (["cawg.ai_inference=notAllowed"], False),
        (["c2pa.ai_training=allowed", "c2pa.data_mining=allowed"], False),
        (["c2pa.data_mining=constrained"], True),
        (["c2pa.ai_training=perhaps"], True),
    ],
)
def test_credentials_reserve_unless_all_is_allowed(entries: list[str], expected: bool) -> None:
    """notAllowed, constrained and any unknown use reserve; inference is not training."""
    assert reserves_by_credentials(entries) == expected


def test_files_that_are_no_media_have_no_credentials(tmp_path: Path, media: Path) -> None:
    """Broken and hostile files end as none or unreadable, never as an error."""
    pytest.importorskip("c2pa")
    for path in sorted((media / "hostile").iterdir()):
        assert credentials.read_credentials(str(path)).c2pa_state in ("none", "unreadable"), path


@pytest.mark.parametrize(
    "stated", ["()", "( and MIT", "( AND MIT )", "(" * 300 + "MIT", "(MIT OR (ISC AND " * 340, "MIT OR " * 400 + "MIT", "AND"]
)
def test_no_licence_text_stops_the_run(stated: str) -> None:
    """What makes the parser of expressions fail, in whatever way, is kept as stated and unspecified."""
    assert parse_licence(stated) == (stated, 3)


@given(st.text(alphabet="()ANDORWITH mit+-.", max_size=40))
def test_any_licence_text_has_a_class(stated: str) -> None:
    """Every text is an expression or is kept."""
    assert parse_licence(stated)[1] in range(4)


def test_licences_that_forbid_a_use_are_not_open() -> None:
    """Of a family of names only members that are known to be open are."""
    assert [parse_licence(n)[1] for n in ("BSD-3-Clause", "BSD-3-Clause-No-Military-License", "BSD-Protection")] == [0, 3, 3]


@pytest.mark.parametrize(
    ("usage", "reserved"),
    [("train-ai=y", False), ("train-ai", True), ("train-ai=?1", True), ("*", True), ('train-ai="y"', True), ("train-ai=n, train-ai=y", True),
     ("a" + " " * 20_000 + "!", True), ("a=y," * 400 + "b=y", True), ("train-ai=y;exceptions=x, bots=y", False)],
)  # fmt: skip
def test_only_the_token_y_is_a_preference_for_training(usage: str, reserved: bool) -> None:
    """Bare names, booleans, strings, a category stated twice and long texts reserve; a long run of spaces takes no time."""
    assert reserves("content_usage", usage) is reserved


@pytest.mark.parametrize(
    "fields",
    [{"Training": "reserved"}, {"X-Robots-Tag": "noai"}, {"x-robots-tag": "noai"}, {"Content-Usage": "train-ai=n"}, {" TDM-Reservation ": "1"},
     {"training": "allowed", "Training": "reserved"}],
)  # fmt: skip
def test_a_signal_counts_however_its_name_is_written(fields: dict[str, Any]) -> None:
    """Capitals, hyphens and spaces hide no opt-out; under two spellings the stricter counts."""
    assert rights.from_fields(fields, "x").optout_state == 1


@pytest.mark.parametrize("licence", [{"name": "CC-BY-NC-4.0"}, ["CC-BY-4.0"], 7])
def test_a_licence_that_is_no_text_is_unspecified(licence: Any) -> None:
    """It was stated, so no default takes its place."""
    stated = rights.from_fields({"license": licence}, "x")
    assert stated.licence_class == 3
    assert rights.fill(stated, rights.from_fields({"licence": "CC0-1.0"}, "source default")).licence_class == 3


@pytest.mark.parametrize(
    ("value", "flag"),
    [(0, 0), (1, 1), (True, 1), (False, 0), ("0", 0), ("1.0", 1), ("no", 0), (0.99, 1), (0.5, 1), (-1, 1), ("maybe", 1), (None, None)],
)
def test_a_flag_that_is_not_understood_is_raised(value: Any, flag: int | None) -> None:
    """Nothing between no and yes is cut down to no."""
    assert rights.from_fields({"minors_flag": value}, "x").minors_flag == flag


def test_the_class_of_a_contract_does_not_hide_another_licence() -> None:
    """Of copies under a vendor's licence and a non-commercial one the configuration classes the former, and the latter still counts."""
    mine, theirs = (rights.from_fields({"licence": name}, "x") for name in ("LicenseRef-vendor-acme", "CC-BY-NC-4.0"))
    for a, b in ((mine, theirs), (theirs, mine)):
        asset = rights.put(_asset(), rights.merge(rights.merge(a, b), b))
        assert asset.licence_expr == "CC-BY-NC-4.0 AND LicenseRef-vendor-acme"
        assert rights.settle(asset, RightsConfig(licences={"LicenseRef-vendor-acme": "commercial"}), TODAY).licence_class == 1
        assert rights.settle(asset, RightsConfig(), TODAY).licence_class == 3


def test_of_two_consents_the_one_that_ends_first_counts() -> None:
    """Whoever states it, and one whose end cannot be read is over."""
    stated = [
        rights.from_fields({"consent": "given", "consent_ref": e, "consent_expires": e}, "x") for e in ("2099-01-01", "2020-01-01", "soon")
    ]
    for a, b in ((0, 1), (1, 0), (0, 2), (2, 0)):
        asset = rights.put(_asset(), rights.merge(stated[a], stated[b]))
        assert asset.consent_ref != "2099-01-01" and rights.settle(asset, RightsConfig(), TODAY).consent_valid == 0.0


def test_credentials_that_reserve_are_not_cut_off() -> None:
    """Entries that reserve come before any number of others; an assertion on training that is not understood reserves."""

    def found(data: Any) -> credentials.Credentials:
        assertion = {"label": "cawg.training-mining", "data": data}
        return credentials.from_report({"active_manifest": "m", "manifests": {"m": {"assertions": [assertion]}}}, "Valid")

    padded = {f"a{i}" + "x" * 180: {"use": "allowed"} for i in range(9)}
    assert found({"entries": padded | {"cawg.ai_training": {"use": "notAllowed"}}}).reserves_training
    assert not found({"entries": {"cawg.ai_training": {"use": "allowed"}}}).reserves_training
    assert all(found(data).reserves_training for data in ({"entries": ["notAllowed"]}, {"entries": "notAllowed"}, {}, "notAllowed", None))
