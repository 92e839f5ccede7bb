"""Generated films: pictures and sound come back, and the note speaks of this film and no other."""

import contextlib
import datetime
import io
import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from curation.credentials import read_credentials
from manifests.signing import SigningError, Statement, generate_key, load_public, load_signer, seal
from training.credentials import COMPOSITE_TYPE, SOURCE_TYPE, Credentials
from training.errors import TrainingError
from training.film import Film, check_dubbing, encode_film, glance, preview, read_film
from training.film_note import digest, has_note, note_signers, read_note


def film(seed: int = 0, *, sound: bool = True) -> Film:
    """A second of a picture that grows bright, with a tone."""
    level = np.linspace(20, 230, 24)[:, None, None, None]
    frames = np.broadcast_to(level, (24, 32, 48, 3)).astype(np.uint8) + np.uint8(seed)
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype(np.float32)
    return Film(frames=frames, fps=Fraction(24), sound=tone if sound else None, made_from={"request": {"prompt": "light", "seed": seed}})


def test_pictures_and_sound_come_back(tmp_path: Path) -> None:
    """Every frame is there at its brightness, at its rate, and the tone at its pitch and length."""
    film().save(tmp_path / "a.mp4")
    found = read_film(tmp_path / "a.mp4")
    assert found.frames.shape == (24, 32, 48, 3) and found.fps == 24 and found.duration_s == 1.0
    assert np.abs(found.frames.mean((1, 2, 3)) - film().frames.mean((1, 2, 3))).max() < 3
    assert found.sound is not None and abs(len(found.sound) - 48_000) < 2_100  # AAC works in packets of 1,024, with some before the first
    spectrum = np.abs(np.fft.rfft(found.sound[4096 : 4096 + 32_768]))
    assert abs(np.argmax(spectrum) * 48_000 / 32_768 - 440) < 3


def test_a_film_may_be_silent_and_of_one_frame(tmp_path: Path) -> None:
    """Without sound there is no sound stream; one frame is a film too."""
    silent = film(sound=False)
    Film(frames=silent.frames[:1], fps=silent.fps, made_from={}).save(tmp_path / "a.mp4")
    found = read_film(tmp_path / "a.mp4")
    assert found.sound is None and len(found.frames) == 1


def test_the_note_is_this_films(tmp_path: Path) -> None:
    """It is read where the packets are those it names; moved to another film, or with a byte of the pictures changed, it does not hold."""
    film(0).save(tmp_path / "a.mp4")
    film(9).save(tmp_path / "b.mp4")
    assert read_note(tmp_path / "a.mp4")["request"] == {"prompt": "light", "seed": 0}
    assert read_note(tmp_path / "b.mp4")["request"]["seed"] == 9
    with av.open(str(tmp_path / "a.mp4")) as a:
        note = a.metadata["comment"]
    sink = io.BytesIO()
    with av.open(str(tmp_path / "b.mp4")) as read, av.open(sink, "w", format="mp4") as out:
        out.metadata["comment"] = note
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    (tmp_path / "c.mp4").write_bytes(sink.getvalue())
    with pytest.raises(SigningError, match="another film"):
        read_note(tmp_path / "c.mp4")


def test_a_signed_note_names_its_key(tmp_path: Path) -> None:
    """With the right key the note is read; with another, or on a film that nobody signed, it is refused."""
    generate_key(tmp_path / "mine")
    generate_key(tmp_path / "other")
    film().save(tmp_path / "a.mp4", load_signer(tmp_path / "mine"))
    assert read_note(tmp_path / "a.mp4", load_public(tmp_path / "mine.pub"))["request"]["seed"] == 0
    with pytest.raises(SigningError, match="another key"):
        read_note(tmp_path / "a.mp4", load_public(tmp_path / "other.pub"))
    film().save(tmp_path / "b.mp4")
    with pytest.raises(SigningError, match="no signature"):
        read_note(tmp_path / "b.mp4", load_public(tmp_path / "mine.pub"))


def test_what_is_no_film_is_said(tmp_path: Path) -> None:
    """A text file, an mp4 without a note, and a missing file are told apart from a film."""
    (tmp_path / "text.mp4").write_bytes(b"not a film at all")
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(SigningError, match="expected an mp4"):
            read_note(tmp_path / name)
        with pytest.raises(TrainingError, match="expected an mp4"):
            read_film(tmp_path / name)


def certificate(folder: Path) -> Credentials:
    """A chain of an authority and a certificate for signing content, and the key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)

    def made(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name | None, by: ec.EllipticCurvePrivateKey, ca: bool
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=30)).add_extension(x509.BasicConstraints(ca, None), critical=True)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
        )
        builder = builder.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return builder.sign(by, hashes.SHA256())

    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = made("authority", root_key, None, root_key, True)
    leaf = made("signer", leaf_key, root.subject, root_key, False)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(leaf.public_bytes(pem.Encoding.PEM) + root.public_bytes(pem.Encoding.PEM))
    key.write_bytes(leaf_key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    return Credentials(chain=chain, key=key)


def test_content_credentials_say_a_model_made_it(tmp_path: Path) -> None:
    """With a certificate the file carries a C2PA manifest whose signature holds and whose source is a trained model; the note still holds."""
    from c2pa import Reader

    film().save(tmp_path / "a.mp4", credentials=certificate(tmp_path))
    with Reader("video/mp4", io.BytesIO((tmp_path / "a.mp4").read_bytes())) as reader:
        told = json.loads(reader.json())
    active = told["manifests"][told["active_manifest"]]
    (actions,) = [a["data"]["actions"] for a in active["assertions"] if a["label"].startswith("c2pa.actions")]
    assert actions[0]["action"] == "c2pa.created" and actions[0]["digitalSourceType"] == SOURCE_TYPE
    wrong = [
        s["code"] for s in told.get("validation_status", []) if s["code"] != "signingCredential.untrusted"
    ]  # nobody knows our authority
    assert not wrong
    assert read_note(tmp_path / "a.mp4")["request"]["seed"] == 0


def test_content_credentials_of_a_changed_film_name_its_source(tmp_path: Path) -> None:
    """A film that a model changed is no film that a model made: it is a composite, opened from the source, whose name is not told, and
    curation reads it so."""
    from c2pa import Reader

    ours = certificate(tmp_path)
    (tmp_path / "private-name.mp4").write_bytes(encode_film(film(3)))
    film().save(tmp_path / "a.mp4", credentials=ours, source=tmp_path / "private-name.mp4")
    with Reader("video/mp4", io.BytesIO((tmp_path / "a.mp4").read_bytes())) as reader:
        told, state = json.loads(reader.json()), reader.get_validation_state()
    active = told["manifests"][told["active_manifest"]]
    (actions,) = [a["data"]["actions"] for a in active["assertions"] if a["label"].startswith("c2pa.actions")]
    assert [a["action"] for a in actions] == ["c2pa.opened", "c2pa.edited"] and state == "Valid"
    assert actions[0]["parameters"]["ingredients"] and actions[1]["digitalSourceType"] == COMPOSITE_TYPE
    (ingredient,) = active["ingredients"]
    assert ingredient["relationship"] == "parentOf" and "private-name" not in json.dumps(told)
    found = read_credentials(str(tmp_path / "a.mp4"))
    assert found.c2pa_state == "untrusted" and found.c2pa_source_type == "compositeWithTrainedAlgorithmicMedia" and found.is_synthetic


def test_only_our_content_credentials_about_this_film_count(tmp_path: Path) -> None:
    """Those of another signer, of another film, about other bytes, or none are not ours."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    ours, other = certificate(tmp_path / "mine"), certificate(tmp_path / "other")
    path, made_from = tmp_path / "a.mp4", film().made_from
    film().save(path, credentials=ours)
    assert ours.lie_in(path, made_from) and not other.lie_in(path, made_from) and not ours.lie_in(path, film(1).made_from)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"mdat") + 100] ^= 1
    path.write_bytes(data)
    assert not ours.lie_in(path, made_from)
    film().save(path)
    assert not ours.lie_in(path, made_from) and not ours.lie_in(tmp_path / "absent.mp4", made_from)


def test_a_wrong_certificate_is_said(tmp_path: Path) -> None:
    """A key that is no key leaves no file, and the error names the chain."""
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(TrainingError, match=r"x\.pem"):
        film().save(tmp_path / "a.mp4", credentials=Credentials(chain=tmp_path / "x.pem", key=tmp_path / "x.pem"))
    assert not (tmp_path / "a.mp4").exists()


def test_how_it_is_shown_is_part_of_the_note(tmp_path: Path) -> None:
    """A rate, a rotation or a codec header that somebody changed in the container is found: the packets alone do not make the film."""
    film().save(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    place = data.index(b"mdhd") + 4 + 4 + 8  # version and flags, two dates, then the time scale
    faster = bytearray(data)
    faster[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") * 10).to_bytes(4, "big")
    header = bytearray(data)
    header[data.index(b"avcC") + 16] ^= 8
    for changed in (faster, header):
        (tmp_path / "b.mp4").write_bytes(changed)
        with pytest.raises(SigningError):
            read_note(tmp_path / "b.mp4")


@pytest.mark.parametrize(
    "changes",
    [
        ["-display_vflip"],
        ["-display_hflip"],
        ["-display_rotation", "180"],
        ["-aspect", "4:1"],
        ["-color_trc", "smpte2084"],
        ["-colorspace", "bt2020nc"],
        ["-color_primaries", "bt2020"],
        ["-color_range", "pc"],
        ["-an"],
        ["-t", "0.5"],
        ["-timecode", "01:00:00:00"],
    ],
    ids=lambda c: c[0],
)
def test_a_film_that_is_shown_otherwise_has_lost_its_note(tmp_path: Path, changes: list[str]) -> None:
    """What stock FFmpeg changes without touching a packet (flips, aspect, colours, streams, length) ends the note, signed or not; writing the
    container anew does not."""
    generate_key(tmp_path / "key")
    film().save(tmp_path / "a.mp4", load_signer(tmp_path / "key"))
    of_input = [c for c in changes if changes[0].startswith("-display")]
    of_output = [c for c in changes if not of_input]
    for name, before, after in (("same.mp4", [], ["-movflags", "faststart"]), ("other.mp4", of_input, of_output)):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *before, "-i", str(tmp_path / "a.mp4"), "-c", "copy", *after]
        subprocess.run([*command, str(tmp_path / name)], check=True)
    assert read_note(tmp_path / "same.mp4", load_public(tmp_path / "key.pub"))["request"]["seed"] == 0
    for key in (None, load_public(tmp_path / "key.pub")):
        with pytest.raises(SigningError, match="shown otherwise than they were made"):
            read_note(tmp_path / "other.mp4", key)


def test_a_note_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """It said nothing of how the film is shown; the error says so, and the film still counts as one that was made."""
    plain = encode_film(film())
    before = Statement(subject="a", sha256=digest(plain), predicate_type="urn:dailies:generated:v1", predicate={"request": {}})
    with av.open(io.BytesIO(plain)) as read, av.open(str(tmp_path / "a.mp4"), "w") as out:
        out.metadata["comment"] = json.dumps(seal(before, None))
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    with pytest.raises(SigningError, match=r"generated:v2, found urn:dailies:generated:v1; that of an earlier version does not say how"):
        read_note(tmp_path / "a.mp4")
    assert has_note(tmp_path / "a.mp4")


def test_a_note_is_told_from_none(tmp_path: Path) -> None:
    """A film with a note has one, though it does not hold; one of a camera, a text and a missing file have none. Its signers are named."""
    generate_key(tmp_path / "key")
    film().save(tmp_path / "a.mp4", load_signer(tmp_path / "key"))
    film().save(tmp_path / "b.mp4")
    (tmp_path / "camera.mp4").write_bytes(encode_film(film()))
    (tmp_path / "text.mp4").write_text("no film")
    assert note_signers(tmp_path / "a.mp4") == [load_public(tmp_path / "key.pub").keyid] and note_signers(tmp_path / "b.mp4") == []
    assert [has_note(tmp_path / f"{name}.mp4") for name in ("a", "b", "camera", "text", "absent")] == [True, True, False, False, False]


def test_hostile_films_end_in_a_sentence(tmp_path: Path) -> None:
    """Time stamps that promise years, a comment that is no text, and half a file are refused without a traceback or a memory full of pictures."""
    film(sound=False).save(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    place = data.index(b"stts") + 4 + 4 + 4 + 4  # version and flags, number of entries, the first's count, then its duration
    long = bytearray(data)
    long[place : place + 4] = (6000 * 12_288).to_bytes(4, "big")
    (tmp_path / "long.mp4").write_bytes(long.replace(b"elst", b"free"))  # the list of edits would show a second of it
    with pytest.raises(TrainingError, match="at most 14400 s"):
        glance(tmp_path / "long.mp4", 12.5, 16)
    comment = bytearray(data)
    comment[data.index(b'{"payload"')] = 0xFF
    (tmp_path / "comment.mp4").write_bytes(comment)
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    for name in ("comment", "half"):
        with pytest.raises(SigningError):
            read_note(tmp_path / f"{name}.mp4")


@pytest.mark.parametrize("change", [(b"avc1", b"xxxx"), (b"mp4a", b"xxxx"), (b"vide", b"tmcd"), (b"soun", b"tmcd"), (b"avcC", b"free")])
def test_streams_that_nobody_can_decode_end_in_a_sentence(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """A codec that is unknown, pictures or sound that call themselves times, and a codec's header that is away: whoever reads the film or its
    note gets what is there, or is told what is not."""
    film().save(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes().replace(*change))
    for read in (read_note, read_film, lambda path: glance(path, 4.0, 16), lambda path: preview(path, 2), check_dubbing):
        with contextlib.suppress(TrainingError, SigningError):
            read(tmp_path / "b.mp4")


def test_a_long_film_is_previewed_as_it_streams(tmp_path: Path) -> None:
    """Some frames, the number of all, and the sound's peaks; `read_film` stops where it is told to, its sound too."""
    film().save(tmp_path / "a.mp4")
    found = preview(tmp_path / "a.mp4", 3)
    assert found.frames.shape == (3, 32, 48, 3) and found.n_frames == 24
    assert found.peaks is not None and 40 < len(found.peaks) < 60 and 0.2 < float(np.median(found.peaks)) < 0.4
    short = read_film(tmp_path / "a.mp4", 6)
    assert len(short.frames) == 6 and short.sound is not None and len(short.sound) == 12_000


def test_pictures_are_glanced_at_when_they_are_shown(tmp_path: Path) -> None:
    """Four a second of a film of 24: those shown at 0, 0.25, 0.5 and 0.75 s, its middle square."""
    film(sound=False).save(tmp_path / "a.mp4")
    squares, seconds = glance(tmp_path / "a.mp4", 4.0, 16)
    assert squares.shape == (4, 16, 16, 3) and seconds == pytest.approx(1.0)
    wanted = film().frames[[0, 6, 12, 18]].mean((1, 2, 3))
    assert np.abs(squares.mean((1, 2, 3)) - wanted).max() < 4
