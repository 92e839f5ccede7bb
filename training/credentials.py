"""Content Credentials (C2PA) of what was made: who signs them, what they say of the source, and whether a file carries ours."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""A film that models made."""

COMPOSITE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""A film that was there and that a model changed: an edit, or pictures that got a sound."""

MADE_FROM = "org.dailies.generated"
"""Label of the assertion that repeats the note."""

_TYPE = "video/mp4"
_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_PARENT = "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A certificate chain and its private key (PEM), with which Content Credentials are signed."""

    chain: Path
    key: Path
    algorithm: str = "es256"

    def lie_in(self, path: Path, made_from: dict[str, Any]) -> bool:
        """Whether the file carries Content Credentials of this certificate, about these very bytes, that say it was made from this."""
        from c2pa import C2paError, Context, Reader

        try:
            data = path.read_bytes()
            with Reader(_TYPE, io.BytesIO(data), context=Context.from_dict(_SETTINGS)) as reader:
                state, told = str(reader.get_validation_state()), json.loads(reader.json())
        except (C2paError, OSError, ValueError):
            return False
        manifest = told.get("manifests", {}).get(told.get("active_manifest"), {})
        said = [a.get("data") for a in manifest.get("assertions", []) if a.get("label") == MADE_FROM]
        signer = (manifest.get("signature_info") or {}).get("cert_serial_number")
        return state in ("Valid", "Trusted") and said == [json.loads(json.dumps(made_from))] and signer == str(self._serial())

    def sign(self, data: bytes, name: str, made_from: dict[str, Any], source: bytes | None = None) -> bytes:
        """The mp4 with Content Credentials in it: made by models, or, where there is a `source`, that film changed by them."""
        from c2pa import Builder, C2paError, C2paSignerInfo, Signer

        manifest = {
            "claim_generator_info": [{"name": "dailies"}],
            "title": name,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": _actions(source is not None)}},
                {"label": MADE_FROM, "data": made_from},
            ],
        }
        sink = io.BytesIO()
        try:
            # no address of a time stamping authority: nothing is asked for on the network
            info = C2paSignerInfo(self.algorithm.encode(), self.chain.read_bytes(), self.key.read_bytes(), None)
            with Signer.from_info(info) as signer, Builder(json.dumps(manifest)) as builder:
                if source is not None:  # its file's name is nobody's business
                    said = {"title": _PARENT, "relationship": "parentOf", "label": _PARENT}
                    builder.add_ingredient(json.dumps(said), _TYPE, io.BytesIO(source))
                builder.sign(signer, _TYPE, io.BytesIO(data), sink)
        except (C2paError, OSError, ValueError) as error:
            raise TrainingError(
                f"{self.chain}: expected a certificate chain and a key that Content Credentials take, found {error}"
            ) from error
        return sink.getvalue()

    def _serial(self) -> int | None:
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificates(self.chain.read_bytes())[0].serial_number
        except (OSError, ValueError, IndexError):
            return None


def _actions(from_source: bool) -> list[dict[str, Any]]:
    """What was done, in C2PA's words: made, or a source opened and changed."""
    if not from_source:
        return [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
    return [opened, {"action": "c2pa.edited", "digitalSourceType": COMPOSITE_TYPE}]
