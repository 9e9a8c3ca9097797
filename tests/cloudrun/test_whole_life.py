"""A model's whole way: from a hub that checks the token to a SIGTERM under load."""

import json
from pathlib import Path

import aiohttp

from tests.cloudrun.container import container
from tests.support.container_program import STREAM
from tests.support.gated_hub import MODEL, hub

TOKEN = "hf_thisTokenOpensTheModelThatIsGated"  # noqa: S105  (the stand-in's)


def _files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


async def test_from_the_gated_hub_to_the_drain(tmp_path: Path) -> None:
    """Built with the token, served without hub and token, drained with nothing lost.

    The image's own layers are looked through in test_image.py; here the engine is a fake one.
    """
    with hub(TOKEN) as gated:
        build = {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
        async with container(tmp_path, "download", **build) as building:
            assert await building.ended() == 0

    serving = {"FAKE_STEP_S": "0.15", "FAKE_STEP_OF_STREAM_S": "0.1"}
    async with container(tmp_path, **serving) as running, aiohttp.ClientSession() as session:
        status, _, body = await running.get("/health")
        assert status == 503
        assert "stage" in json.loads(body)
        url = await running.url()
        completion = {**STREAM, "stream": False}
        async with session.post(f"{url}/v1/completions", json=completion) as answer:
            assert answer.status == 200
        streams = [await session.post(f"{url}/v1/completions", json=STREAM) for _ in range(8)]
        running.terminate()
        bodies = [await stream.read() for stream in streams]
        code = await running.ended()
        drained = json.loads(await running.logged('"drained"'))

    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert (code, drained["in_flight"], drained["lost"]) == (0, 8, 0)
    assert TOKEN not in "\n".join([*building.log, *running.log])
    assert _files_with(MODEL, tmp_path)
    assert not _files_with(TOKEN, tmp_path)
