"""Which instance reports a build: a small object in a bucket, by Cloud Storage's JSON API.

Instances know nothing of one another.  An object is made by `ifGenerationMatch=0`, which succeeds
for one of all that try at once, and changed by the generation that was read.  So the one that made
it works, the others have their delivery sent again, and one that comes after a dead instance goes
on where that one was: the report with its analysis lies in the object.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import structlog

from build_notifier.report import Report
from servekit.errors.tree import EngineUnreachable

log = structlog.get_logger()

TIMEOUT_S = 10.0

# Longer than an instance may work on one message (`--timeout 300`).
LEASE_S = 330.0

_GOOGLE = "https://storage.googleapis.com"
_METADATA = "metadata.google.internal"
_TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105

# What a second attempt would not change: no right, no such bucket.
_REFUSALS = (400, 401, 403, 404)


class ClaimHeld(EngineUnreachable):
    """Another instance reports this build; the message is to be delivered again, should it fail."""


@dataclass(slots=True)
class ReportProgress:
    """How far the report of one build is; kept when an attempt fails.

    Attributes:
        report: with its analysis, which is paid for once.
        is_written: whether its log entry is, or cannot be.
        is_done: whether everybody was told.
    """

    report: Report | None = None
    is_written: bool = False
    is_done: bool = False

    def to_json(self, held_until_s: float) -> bytes:
        report = asdict(self.report) if self.report else None
        facts = {"is_written": self.is_written, "is_done": self.is_done}
        return json.dumps({"held_until_s": held_until_s, "report": report, **facts}).encode()

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "ReportProgress":
        report = found.get("report")
        if report is not None:
            report = Report(**{**report, "lines": tuple(report["lines"])})
        return cls(report, bool(found.get("is_written")), bool(found.get("is_done")))


@dataclass(slots=True)
class _Held:
    generation: int


@dataclass(slots=True)
class BucketClaims:
    """The claims of all instances.  For any number of threads, but one at a time for each key.

    Attributes:
        bucket: with a prefix, as in `my-bucket/claims`.
        now: seconds since 1970, which instances have in common.
    """

    bucket: str
    environ: Mapping[str, str]
    now: Callable[[], float]
    _held: dict[str, _Held] = field(default_factory=dict)

    def claim(self, key: str) -> ReportProgress:
        """Return how far the report called *key* is; until `save` says otherwise it is ours.

        Raises:
            ClaimHeld: it is another instance's.
            EngineUnreachable: the bucket does not answer; it is tried again.
        """
        progress, generation = self._read(key)
        if not progress.is_done:
            self._write(key, progress, generation, self.now() + LEASE_S)
        return progress

    def save(self, key: str, progress: ReportProgress, *, gives_up: bool = False) -> None:
        """Keep *progress*; *gives_up* if whoever comes next may go on with it.

        Raises:
            EngineUnreachable: the bucket does not answer; it is tried again.
        """
        held = self._held.get(key)
        if held is not None:
            until_s = 0.0 if gives_up else self.now() + LEASE_S
            self._write(key, progress, held.generation, until_s)
            if gives_up or progress.is_done:
                del self._held[key]

    def _read(self, key: str) -> tuple[ReportProgress, int]:
        answer = self._request(f"/storage/v1/b/{self._object(key)}?alt=media", None)
        if answer is None:
            return ReportProgress(), 0
        body, generation = answer
        found = json.loads(body)
        progress = ReportProgress.from_json(found)
        if not progress.is_done and found["held_until_s"] > self.now():
            raise ClaimHeld(f"{key} is being reported by another instance; it is delivered again")
        return progress, generation

    def _write(self, key: str, progress: ReportProgress, generation: int, until_s: float) -> None:
        bucket, _, _ = self.bucket.partition("/")
        where = (
            f"/upload/storage/v1/b/{bucket}/o?uploadType=media&ifGenerationMatch={generation}"
            f"&name={quote(self._name(key), safe='')}"
        )
        answer = self._request(where, progress.to_json(until_s))
        if answer is None:
            # 404: there is no such bucket.  Twice is better than never.
            log.error("claims are not shared", reason=f"bucket {bucket!r} does not exist")
            return
        body, _ = answer
        self._held[key] = _Held(int(json.loads(body)["generation"]))

    def _object(self, key: str) -> str:
        bucket, _, _ = self.bucket.partition("/")
        return f"{bucket}/o/{quote(self._name(key), safe='')}"

    def _name(self, key: str) -> str:
        prefix = self.bucket.partition("/")[2].strip("/")
        return f"{prefix}/{key}.json" if prefix else f"{key}.json"

    def _request(self, path: str, content: bytes | None) -> tuple[bytes, int] | None:
        """Return the body and the object's generation; None where there is no such object.

        Raises:
            ClaimHeld: another instance was first.
            EngineUnreachable: Cloud Storage fails, or cannot be reached.
        """
        emulator = self.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            if not emulator:
                headers["Authorization"] = f"Bearer {self._token()}"
            request = Request((emulator or _GOOGLE) + path, data=content, headers=headers)  # noqa: S310
            with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return answer.read(), int(answer.headers.get("x-goog-generation", 0))
        except HTTPError as error:
            self._raise_unless_refused(error)
            return None
        except (URLError, TimeoutError, OSError) as error:
            raise EngineUnreachable(
                f"the claims' bucket cannot be reached ({type(error).__name__}); it is tried again"
            ) from None

    def _raise_unless_refused(self, error: HTTPError) -> None:
        with error:
            status = error.code
        if status == 412:
            raise ClaimHeld("another instance was first; the message is delivered again") from None
        if status not in _REFUSALS:
            raise EngineUnreachable(
                f"the bucket of claims answers {status}; it is tried again"
            ) from None
        if status != 404:
            # Twice is better than never.
            log.error("claims are not shared", status=status, bucket=self.bucket)

    def _token(self) -> str:
        host = self.environ.get("GCE_METADATA_HOST", _METADATA)
        request = Request(f"http://{host}{_TOKEN_PATH}", headers={"Metadata-Flavor": "Google"})
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return str(json.loads(answer.read())["access_token"])
