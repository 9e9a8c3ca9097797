"""A secret that is put in at any door of a download comes out at none."""

import os
from pathlib import Path

import pytest

from servekit.errors.tree import ServeError
from servekit.secrets.secret import Secret
from servekit.timing.clock import SystemClock
from servekit.weights.buckets import BucketAccess, BucketDownload
from servekit.weights.cache import Cache
from servekit.weights.download import RangedDownload, open_session
from servekit.weights.hub import HubDownload
from servekit.weights.model import Fetchers, ensure_model
from servekit.weights.source import cache_name, described, parse_source
from tests.support.clock import FakeClock
from tests.support.file_server import Fault, file_server
from tests.support.model_archive import model_files, tar

CANARY = "canary7Qx"
ACCESS = BucketAccess(
    aws_key_id="AKID", aws_secret=Secret(CANARY), aws_session=Secret(CANARY), uses_metadata=False
)


def _on_disk(folder: Path) -> str:
    """Names and contents of all files: markers, journals, links."""
    found = []
    for root, folders, names in os.walk(folder):
        found += [*folders, *names]
        found += [
            (Path(root) / name).read_bytes().decode(errors="replace")
            for name in names
            if name != "archive"
        ]
    return "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        f"{{url}}/m/model.tar?sig={CANARY}",
        f"{{login}}/m/model.tar?X-Amz-Signature={CANARY}&X-Amz-Credential={CANARY}",
        f"{{url}}/absent.tar?token={CANARY}",
        f"{{url}}/page/model.tar?sig={CANARY}",
        f"{{url}}/m/model.tar?sig={CANARY}#sha256={'0' * 64}",
        f"{{url}}/m/model.tar?sig={CANARY}#{CANARY}",
        f"http://u:{CANARY}@127.0.0.1:9/m.tar?sig={CANARY}",
        f"http://u:{CANARY}@127.0.0.1:port/m.tar",
        f"http://u:{CANARY}/x@127.0.0.1:9/m.tar",
        f"ftp://u:{CANARY}@host/m.tar",
        f"s3://u:{CANARY}@/m",
    ],
)
@pytest.mark.parametrize("faults", [[], [Fault(status=503)] * 99, [Fault(status=403)] * 99])
async def test_no_door_shows_a_secret(source: str, faults: list[Fault], tmp_path: Path) -> None:
    """Not the log, an error, a name, the disk, nor a repr of what handles it."""
    shown: list[str] = []
    files = {"/m/model.tar": tar(model_files())}
    async with file_server(files) as server, open_session() as session:
        server.faults = list(faults)
        login = server.url.replace("http://", f"http://u:{CANARY}@")
        text = source.format(url=server.url, login=login)
        clock = FakeClock()

        def report(event: str, **fields: object) -> None:
            shown.append(f"{event} {fields}")

        try:
            parsed = parse_source(text)
            shown += [repr(parsed), described(parsed)]
            shown.append(cache_name(parsed))  # type: ignore[arg-type]
            hub = HubDownload(CANARY, server.url)
            fetchers = Fetchers(
                RangedDownload(session, clock=clock, report=report), hub, BucketDownload(ACCESS)
            )
            shown.append(repr(fetchers) + repr(hub) + repr(ACCESS))
            cache = Cache(tmp_path, tmp_path)
            await ensure_model(parsed, cache, fetchers, clock=clock, report=report)
        except ServeError as error:
            shown.append(f"{error!s} {error!r}")

    assert CANARY not in "\n".join(shown) + _on_disk(tmp_path)


async def test_a_hub_refusal_does_not_show_the_token(tmp_path: Path) -> None:
    """Nor does a proxy's page that stands for the hub."""
    async with file_server() as server:
        for token in (CANARY, Secret(CANARY)):
            with pytest.raises(ServeError) as refusal:
                await HubDownload(token, server.url).fetch(
                    parse_source("hf://org/name"),  # type: ignore[arg-type]
                    tmp_path,
                    clock=SystemClock(),
                    report=lambda event, **_: None,  # noqa: ARG005
                )
            assert CANARY not in repr(refusal.value)
