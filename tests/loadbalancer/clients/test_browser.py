"""A page in headless Chromium that asks with `fetch`, as a chat in a browser does."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.loadbalancer.clients.states import every_state, fails
from tests.loadbalancer.dialect_engine import TEXT
from tests.loadbalancer.server.test_status_page import opened

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="no page was opened: needs chromium on the PATH; apt-get install chromium",
    ),
]

PAGE = """<!doctype html><pre id="said"></pre><script>
async function ask(url, stream) {
  const body = JSON.stringify({ model: "m", stream, messages: [], input: "" });
  const headers = { "Content-Type": "application/json", Authorization: "Bearer k" };
  try {
    const answer = await fetch(url, { method: "POST", headers, body });
    const text = await answer.text();
    return answer.ok ? { text } : { raised: String(answer.status) };
  } catch (error) {
    return { raised: String(error) };
  }
}
(async () => {
  const said = [];
  for (const [url, stream] of CALLS) said.push(await ask(url, stream));
  document.getElementById("said").textContent = JSON.stringify(said);
})();
</script>"""


async def test_page_is_told_where_an_answer_is_not_whole(tmp_path: Path) -> None:
    """From another origin, which was allowed to ask; `fetch` rejects, or has the status."""
    page = b""

    async def show(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(page)}"
        writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + page)
        writer.close()

    server = await asyncio.start_server(show, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, every_state(cors_origins=(f"http://127.0.0.1:{port}",)) as urls:
        paths = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
        cases = [(s, path, stream) for s in urls for path in paths for stream in (True, False)]
        calls = [(urls[state] + path, stream) for state, path, stream in cases]
        page = PAGE.replace("CALLS", json.dumps(calls)).encode()
        shown = await opened(port, tmp_path)

    said = re.search(r'<pre id="said">(.+?)</pre>', shown, re.DOTALL)
    assert said is not None, shown
    answers = json.loads(said[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert len(answers) == len(cases)
    for (state, path, stream), answer in zip(cases, answers, strict=True):
        assert ("raised" in answer) == fails(state), (state, path, stream, answer)
        if not fails(state):
            assert "three" in answer["text"], (state, path, TEXT)
