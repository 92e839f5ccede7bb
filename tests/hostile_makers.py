"""Files that ask whoever opens them to open something else, made byte by byte: playlists, scripts, reference movies, linked segments."""

import struct
from collections.abc import Callable
from pathlib import Path

import av

from tests.media_makers import still, write_video

Maker = Callable[[Path, Path, str], None]
"""(file to write, real video elsewhere that it should point to, base URL of a server that must not be asked)"""


def _text(template: str) -> Maker:
    return lambda path, target, url: (
        path.write_text(template.format(path=target, name=target.name, url=url, port=url.rsplit(":", 1)[1])) and None
    )


def _m3u8(item: str) -> Maker:
    return _text(f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:5,\n{item}\n#EXT-X-ENDLIST\n")


def boxes(kind: bytes, *parts: bytes) -> bytes:
    """An MP4 box of these parts."""
    body = b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def alias(target: Path, levels: int) -> bytes:
    """A QuickTime alias record, as FFmpeg reads it in a `dref`: to the absolute path, or to its last `levels` parts beside the movie."""
    folder = str(target).encode()
    record = struct.pack(">I4sH", 0, b"\0" * 4, 2)  # application, size, version: 10 bytes that are skipped
    record += bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12)
    record += bytes([len(target.name)]) + target.name.encode().ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", levels, levels) + bytes(16)
    record += struct.pack(">HH", 2, len(folder)) + folder + b"\0" * (len(folder) % 2)
    return record + struct.pack(">HH", 0xFFFF, 0)


def reference_movie(path: Path, target: Path, url: str, levels: int = 0) -> None:
    """An MP4 whose track's data are said to lie in another file: `dref` with an alias, the frame tables of a real video."""
    data = write_video(path.with_suffix(".mp4"), still(1, 6)).read_bytes()
    path.write_bytes(replace_dref(data, boxes(b"dref", struct.pack(">II", 0, 1), boxes(b"alis", bytes(4), alias(target, levels)))))


def neighbour_movie(path: Path, target: Path, url: str) -> None:
    """As above, with a file beside the movie."""
    reference_movie(path, Path("/titles.sub"), url, levels=1)


def url_movie(path: Path, target: Path, url: str) -> None:
    """As above, with a `url ` entry, as the standard has it."""
    data = write_video(path.with_suffix(".mp4"), still(1, 6)).read_bytes()
    entry = boxes(b"url ", bytes(4), f"{url}/{target.name}".encode() + b"\0")
    path.write_bytes(replace_dref(data, boxes(b"dref", struct.pack(">II", 0, 1), entry)))


def replace_dref(data: bytes, dref: bytes) -> bytes:
    """The MP4 (index last, so that no offset moves) with another `dref`."""
    at = data.index(b"dref") - 4
    grown = len(dref) - struct.unpack(">I", data[at : at + 4])[0]
    out = bytearray(data[:at] + dref + data[at + struct.unpack(">I", data[at : at + 4])[0] :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = out.rindex(kind, 0, at) - 4
        out[start : start + 4] = struct.pack(">I", struct.unpack(">I", out[start : start + 4])[0] + grown)
    return bytes(out)


def redirecting_movie(path: Path, target: Path, url: str) -> None:
    """A QuickTime movie that is only a redirection (`rmra`)."""
    place = f"{url}/{target.name}".encode() + b"\0"
    rdrf = boxes(b"rdrf", bytes(4), b"url ", struct.pack(">I", len(place)), place)
    path.write_bytes(boxes(b"ftyp", b"qt  ", bytes(4), b"qt  ") + boxes(b"moov", boxes(b"rmra", boxes(b"rmda", rdrf))))


def linked_segment(path: Path, target: Path, url: str) -> None:
    """A Matroska file that names the file to play next and before (NextFilename, PrevFilename) and attaches one by a path."""
    written = path.with_suffix(".mkv")
    with av.open(str(written), "w", format="matroska") as out:
        stream = out.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        out.add_attachment(str(target), "font/ttf", b"not a font")
        for i, picture in enumerate(still(1, 6)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    data, name = bytearray(written.read_bytes()), str(target).encode()
    links = b"".join(k + bytes([0x40 | len(name) >> 8, len(name) & 255]) + name for k in (b"\x3e\x83\xbb", b"\x3c\x83\xab"))
    at = data.index(b"\x15\x49\xa9\x66") + 4
    width = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + width], "big") & ((1 << (7 * width)) - 1)
    data[at : at + width] = (size + len(links) | 1 << 56).to_bytes(8, "big") + links
    path.write_bytes(data)


def vobsub(path: Path, target: Path, url: str) -> None:
    """An index of picture subtitles, whose pictures FFmpeg looks for in a file of the same name."""
    path.write_text(
        "# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n"
    )


MAKERS: dict[str, Maker] = {
    "absolute.m3u8": _m3u8("{path}"),
    "hls-as.mp4": _m3u8("{path}"),
    "relative.m3u8": _m3u8("../elsewhere/{name}"),
    "network.m3u8": _m3u8("{url}/{name}"),
    "file-url.m3u8": _m3u8("file://{path}"),
    "concat-url.m3u8": _m3u8("concat:{path}|{path}"),
    "subfile-url.m3u8": _m3u8("subfile,,start,0,end,0,,:{path}"),
    "crypto.m3u8": _text('#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:5,\n{url}/{name}\n'),
    "absolute.ffconcat": _text("ffconcat version 1.0\nfile '{path}'\n"),
    "concat-as.mkv": _text("ffconcat version 1.0\nfile '../elsewhere/{name}'\n"),
    "stream.sdp": _text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP/TCP 96\na=rtpmap:96 H264/90000\n"
    ),
    "dash.mpd": _text(
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT5S" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1"><BaseURL>{url}/{name}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    ),
    "package.xml": _text(
        '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:0</Id></CompositionPlaylist>'
    ),
    "frame%03d.png": _text("{path}"),
    "frame%d.jpg": _text("{path}"),
    "*.png": _text("{path}"),
    "titles.idx": vobsub,
    "titles.ass": _text("[Script Info]\nScriptType: v4.00+\nVideo File: {path}\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,x,,0,0,0,,x\n"),
    "titles.srt": _text("1\n00:00:00,000 --> 00:00:01,000\n<img src='{url}/{name}'>\n"),
    "script.avs": _text('DirectShowSource("{path}")\n'),
    "redirect.asx": _text('<asx version="3.0"><entry><ref href="{url}/{name}"/></entry></asx>'),
    "redirect.asf": _text("[Reference]\nRef1={url}/{name}\nRef2={path}\n"),
    "list.pls": _text("[playlist]\nNumberOfEntries=1\nFile1={path}\n"),
    "redirect.mov": _text("RTSPtext\n{url}/{name}\n"),
    "shortcut.url": _text("[InternetShortcut]\nURL=file://{path}\n"),
    "meta.mp4": _text(";FFMETADATA1\ntitle={path}\n"),
    "picture.svg": _text('<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{path}"/><image href="{url}/{name}"/></svg>'),
    "page.jpg": _text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({path}) (r) file\n"),
    "reference.mov": reference_movie,
    "reference-beside.mov": neighbour_movie,
    "reference-url.mov": url_movie,
    "redirecting.mov": redirecting_movie,
    "linked.matroska": linked_segment,
}
"""Every way that we know of in which a file can point elsewhere."""

OUTCOMES = {
    "reference.mov": "truncated",
    "reference-beside.mov": "truncated",
    "reference-url.mov": "video",
    "redirecting.mov": "no_streams",
    "linked.matroska": "video",
}
"""What becomes of those that are media; all others are `not_media`. FFmpeg reads a `url ` entry as the file itself."""
