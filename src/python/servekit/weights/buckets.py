"""Models in buckets: gs:// of Google Cloud Storage, s3:// of S3 and whatever speaks its protocol.

The environment names who asks.  S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_REGION, AWS_ENDPOINT_URL_S3.  Google: GOOGLE_OAUTH_ACCESS_TOKEN, else the machine's account,
by its metadata server; STORAGE_EMULATOR_HOST.  Without any, a bucket is read as a public one.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

import aiohttp
import msgspec

from servekit.errors.tree import WeightsMissing, WeightsRefused, WeightsUnreachable
from servekit.secrets.secret import Secret
from servekit.timing.clock import Clock
from servekit.weights.download import RangedDownload, Refused, Sign, open_session
from servekit.weights.files import fetch_files
from servekit.weights.progress import ProgressReporter
from servekit.weights.selection import INDEX, RepoFile, select_files
from servekit.weights.source import BucketFolder

_MAX_LISTING_BYTES = 64 * 1024 * 1024
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_METADATA_URL = (
    "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
)


class _Object(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    size: str = ""
    md5_hash: str = ""


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    items: list[_Object] = []
    next_page_token: str = ""


class _Token(msgspec.Struct, frozen=True):
    access_token: str


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """Who asks the stores, and where they are.

    Attributes:
        aws_endpoint: of another store that speaks S3; empty for Amazon's.
        gcs_endpoint: of an emulator; empty for Google's.
        uses_metadata: whether a Google token is asked of the machine's metadata server.
    """

    aws_key_id: str = ""
    aws_secret: Secret = field(default_factory=Secret)
    aws_session: Secret = field(default_factory=Secret)
    aws_region: str = "us-east-1"
    aws_endpoint: str = ""
    gcs_token: Secret = field(default_factory=Secret)
    gcs_endpoint: str = ""
    uses_metadata: bool = True

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "BucketAccess":
        """Return what *environ* says, under the names of the makers' own tools."""
        emulator = environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        return cls(
            aws_key_id=environ.get("AWS_ACCESS_KEY_ID", ""),
            aws_secret=Secret(environ.get("AWS_SECRET_ACCESS_KEY", "")),
            aws_session=Secret(environ.get("AWS_SESSION_TOKEN", "")),
            aws_region=environ.get("AWS_REGION")
            or environ.get("AWS_DEFAULT_REGION")
            or "us-east-1",
            aws_endpoint=(
                environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
            ).rstrip("/"),
            gcs_token=Secret(environ.get("GOOGLE_OAUTH_ACCESS_TOKEN", "")),
            gcs_endpoint=emulator if "://" in emulator or not emulator else f"http://{emulator}",
            uses_metadata=not emulator,
        )


@dataclass(frozen=True, slots=True)
class BucketDownload:
    """Fetches folders of buckets, and signs requests for single objects."""

    access: BucketAccess
    allow_pickle: bool = False
    now: Callable[[], float] = time.time

    async def fetch(
        self,
        source: BucketFolder,
        folder: Path,
        *,
        clock: Clock,
        report: ProgressReporter,
        room: Callable[[int], None] | None = None,
    ) -> None:
        """Return once every file below *source* that vLLM needs is in *folder*.

        *room* is told the bytes of all files before the first is asked for, and may raise.

        Raises:
            WeightsMissing: there is nothing at *source*, or it is hidden from us.
            WeightsUnreachable, WeightsRefused: as for the hub.
        """
        async with open_session() as session:
            download = RangedDownload(session, clock=clock, report=report)
            download = download.signed(await self.sign(source.scheme, session))
            files = await self._chosen(source, download)
            if room is not None:
                room(sum(file.size or 0 for file in files))
            urls = {
                file: self.url(source.scheme, source.bucket, source.prefix + file.path)
                for file in files
            }
            try:
                await fetch_files(urls, folder, download, report=report)
            except Refused as error:
                raise WeightsMissing(_why_refused(source, error)) from None

    async def _chosen(self, source: BucketFolder, download: RangedDownload) -> list[RepoFile]:
        list_page = self._list_s3 if source.scheme == "s3" else self._list_gcs
        files: list[RepoFile] = []
        page = ""
        while True:
            try:
                found, page = await list_page(source, page, download)
            except Refused as error:
                raise WeightsMissing(_why_refused(source, error)) from None
            files += found
            if not page:
                break
        if not files:
            raise WeightsMissing(f"{source} holds nothing; correct the bucket and the folder")
        indexed: set[str] = set()
        if any(file.path == INDEX for file in files):
            url = self.url(source.scheme, source.bucket, source.prefix + INDEX)
            text, _ = await download.read(url, _MAX_LISTING_BYTES)
            indexed = _shards(text, source)
        return select_files(files, indexed, allow_pickle=self.allow_pickle)

    async def sign(self, scheme: str, session: aiohttp.ClientSession) -> Sign:
        """Return what proves to the store of *scheme* who asks."""
        if scheme == "s3":
            return self._sign_s3
        token = self.access.gcs_token or await self._machine_token(session)
        origin = self.access.gcs_endpoint or "https://storage.googleapis.com"
        header = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
        return lambda url: header if url.startswith(f"{origin}/") else {}

    def url(self, scheme: str, bucket: str, key: str) -> str:
        """Return the address of one object."""
        if scheme == "gs":
            origin = self.access.gcs_endpoint or "https://storage.googleapis.com"
            return (
                f"{origin}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}?alt=media"
            )
        return f"{self._s3_bucket(bucket)}/{quote(key)}"

    def _s3_bucket(self, bucket: str) -> str:
        if self.access.aws_endpoint:
            return f"{self.access.aws_endpoint}/{quote(bucket)}"
        # A name with dots has no certificate as a host.
        if "." in bucket:
            return f"https://s3.{self.access.aws_region}.amazonaws.com/{quote(bucket)}"
        return f"https://{bucket}.s3.{self.access.aws_region}.amazonaws.com"

    async def _list_gcs(
        self, source: BucketFolder, page: str, download: RangedDownload
    ) -> tuple[list[RepoFile], str]:
        origin = self.access.gcs_endpoint or "https://storage.googleapis.com"
        query = {"prefix": source.prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
        query |= {"pageToken": page} if page else {}
        url = f"{origin}/storage/v1/b/{quote(source.bucket, safe='')}/o?{urlencode(query)}"
        text, _ = await download.read(url, _MAX_LISTING_BYTES)
        try:
            listing = msgspec.json.decode(text, type=_Page)
        except msgspec.MsgspecError as error:
            raise WeightsUnreachable(f"the listing of {source} is none: {error}") from error
        files = [
            RepoFile(item.name[len(source.prefix) :], int(item.size or 0), _md5(item.md5_hash))
            for item in listing.items
            if not item.name.endswith("/")
        ]
        return files, listing.next_page_token

    async def _list_s3(
        self, source: BucketFolder, page: str, download: RangedDownload
    ) -> tuple[list[RepoFile], str]:
        query = {"list-type": "2", "prefix": source.prefix}
        query |= {"continuation-token": page} if page else {}
        url = (
            f"{self._s3_bucket(source.bucket)}/?{urlencode(sorted(query.items()), quote_via=quote)}"
        )
        text, _ = await download.read(url, _MAX_LISTING_BYTES)
        try:
            root = ElementTree.fromstring(text)  # noqa: S314  (a bounded answer of the store)
        except ElementTree.ParseError as error:
            raise WeightsUnreachable(f"the listing of {source} is none: {error}") from error
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        files = [
            RepoFile(key[len(source.prefix) :], int(item.findtext(f"{space}Size") or 0))
            for item in root.iter(f"{space}Contents")
            if (key := item.findtext(f"{space}Key") or "") and not key.endswith("/")
        ]
        return files, root.findtext(f"{space}NextContinuationToken") or ""

    def _sign_s3(self, url: str) -> Mapping[str, str]:
        """Return the headers of a GET: AWS Signature Version 4.

        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
        """
        access = self.access
        if not access.aws_secret:
            return {}
        split = urlsplit(url)
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now()))
        headers = {
            "host": split.netloc,
            "x-amz-content-sha256": _EMPTY_SHA256,
            "x-amz-date": moment,
        }
        if access.aws_session:
            headers["x-amz-security-token"] = access.aws_session.reveal()
        names = ";".join(sorted(headers))
        query = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
            for name, value in sorted(parse_qsl(split.query, keep_blank_values=True))
        )
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = f"GET\n{split.path or '/'}\n{query}\n{lines}\n{names}\n{_EMPTY_SHA256}"
        scope = f"{moment[:8]}/{access.aws_region}/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        key = f"AWS4{access.aws_secret.reveal()}".encode()
        for part in (moment[:8], access.aws_region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{access.aws_key_id}/{scope}"
        return {name: value for name, value in headers.items() if name != "host"} | {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, "
            f"Signature={signature}"
        }

    async def _machine_token(self, session: aiohttp.ClientSession) -> Secret:
        """Return the token of the machine's own account; an empty one where there is none."""
        if not self.access.uses_metadata:
            return Secret()
        timeout = aiohttp.ClientTimeout(total=1.0)
        headers = {"Metadata-Flavor": "Google"}
        try:
            async with session.get(_METADATA_URL, headers=headers, timeout=timeout) as answer:
                text = await answer.read()
                return Secret(msgspec.json.decode(text, type=_Token).access_token)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
            return Secret()


def _md5(text: str) -> str | None:
    return f"md5:{base64.b64decode(text).hex()}" if text else None


def _shards(text: bytes, source: BucketFolder) -> set[str]:
    try:
        index = msgspec.json.decode(text)
        return {str(name) for name in index["weight_map"].values()}
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise WeightsRefused(f"{INDEX} of {source} has no weight_map; upload it again") from error


def _why_refused(source: BucketFolder, error: Refused) -> str:
    if error.status == 404:
        return f"there is no bucket {source.bucket!r}, or no such folder in it; correct {source}"
    who = (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if source.scheme == "s3"
        else ("the service account, or GOOGLE_OAUTH_ACCESS_TOKEN")
    )
    return f"{source} may not be read ({error.status}); check the rights of {who}"
