"""Where compile caches are kept: a folder, which may be a mounted bucket, or a bucket itself."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from cloudrun.compile_cache import Store
from servekit.errors.tree import SettingInvalid, WeightsUnreachable

# A cache of 36 MB is 5 MB packed; a bucket of the same region answers in well under a second.
TIMEOUT_S = 20.0

_METADATA = "metadata.google.internal"
_TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105


class FolderStore:
    """Files of a folder.  They appear by a rename: nobody reads a part of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WeightsUnreachable(f"{self._folder / name}: {error.strerror}") from error

    def put(self, name: str, content: bytes) -> None:
        fresh = self._folder / f".{name}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content)
            fresh.replace(self._folder / name)
        except OSError as error:
            raise WeightsUnreachable(
                f"{self._folder / name} could not be kept: {error.strerror}; make it writable"
            ) from error

    def names(self) -> tuple[str, ...]:
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(path.name for path in self._folder.iterdir() if path.is_file()))


class BucketStore:
    """Objects of a Google Cloud Storage bucket, by its JSON API, as the service's own account."""

    def __init__(self, bucket: str, prefix: str, environ: Mapping[str, str]) -> None:
        emulator = environ.get("STORAGE_EMULATOR_HOST", "")
        self._base = emulator.rstrip("/") or "https://storage.googleapis.com"
        self._metadata = "" if emulator else environ.get("GCE_METADATA_HOST", _METADATA)
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def get(self, name: str) -> bytes | None:
        return self._request(f"/storage/v1/{self._object(name)}?alt=media")

    def put(self, name: str, content: bytes) -> None:
        where = f"/upload/storage/v1/b/{self._bucket}/o?uploadType=media&name={self._name(name)}"
        if self._request(where, content) is None:
            raise WeightsUnreachable(f"bucket {self._bucket!r} does not exist; create it")

    def names(self) -> tuple[str, ...]:
        found = self._request(
            f"/storage/v1/b/{self._bucket}/o?fields=items(name)&prefix={quote(self._prefix)}"
        )
        items = json.loads(found).get("items", []) if found else []
        return tuple(item["name"].removeprefix(self._prefix) for item in items)

    def _object(self, name: str) -> str:
        return f"b/{self._bucket}/o/{self._name(name)}"

    def _name(self, name: str) -> str:
        return quote(self._prefix + name, safe="")

    def _request(self, path: str, content: bytes | None = None) -> bytes | None:
        headers = {"Content-Type": "application/octet-stream"} if content is not None else {}
        try:
            if self._metadata:
                headers["Authorization"] = f"Bearer {self._token()}"
            return _send(Request(self._base + path, data=content, headers=headers))  # noqa: S310
        except HTTPError as error:
            if error.code == 404:
                return None
            raise WeightsUnreachable(
                f"bucket {self._bucket!r} answers {error.code}; give the service's account "
                "roles/storage.objectUser on it"
            ) from error
        except (URLError, TimeoutError, ValueError, KeyError) as error:
            raise WeightsUnreachable(f"bucket {self._bucket!r}: {error}") from error

    def _token(self) -> str:
        url = f"http://{self._metadata}{_TOKEN_PATH}"
        request = Request(url, headers={"Metadata-Flavor": "Google"})
        return str(json.loads(_send(request))["access_token"])


def _send(request: Request) -> bytes:
    # The scheme is http or https: the addresses are Google's, or a test's.
    with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return bytes(answer.read())


def open_store(text: str, environ: Mapping[str, str]) -> Store:
    """Return the store that *text* names: a folder, or `gs://bucket/prefix`.

    Raises:
        SettingInvalid: it names neither.
    """
    if text.startswith("gs://"):
        bucket, _, prefix = text.removeprefix("gs://").partition("/")
        if not bucket:
            raise SettingInvalid(f"{text!r} names no bucket; write gs://bucket/prefix")
        return BucketStore(bucket, prefix, environ)
    if "://" in text or not text:
        raise SettingInvalid(f"{text!r} keeps no compile cache; name a folder or gs://bucket")
    return FolderStore(Path(text))
