"""The pages in a real browser, against a real server: search, click, and the list moves."""

import html
import json
import re
import subprocess
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="ss4rec[serve] is not installed")

import uvicorn

from ss4rec.serve.app import make_app
from ss4rec.serve.guards import Limits
from tests.browser import _OFFLINE, CHROMIUM, needs_browser

CLICKS = """<script>
addEventListener("load", async () => {
  const pause = () => new Promise(done => setTimeout(done, 20));
  const until = async what => { for (let n = 0; n < 200 && !what(); n++) await pause() };
  const shown = () => [...document.querySelectorAll("#list li .title")].map(cell => cell.textContent);
  const seen = [];
  $("token").value = "key";
  for (const words of ["seven", "i001", "i002"]) {
    $("search").value = words;
    $("search").dispatchEvent(new Event("input"));
    await until(() => document.querySelector("#found .title")?.textContent.toLowerCase().includes(words));
    const before = $("taken").textContent;
    document.querySelector("#found button").click();
    await until(() => $("taken").textContent !== before);
    seen.push(shown());
  }
  await until(() => $("model").textContent.includes("made up"));
  $("token").dispatchEvent(new Event("change"));
  await until(() => $("model").textContent.includes("made up"));
  const moves = [...document.querySelectorAll("#list .move")].map(cell => cell.textContent);
  const history = [...document.querySelectorAll("#history .title")].map(cell => cell.textContent);
  const pre = document.createElement("pre"); pre.id = "measured"; pre.hidden = true;
  pre.textContent = JSON.stringify({seen, moves, history, model: $("model").textContent, error: $("error").textContent,
    wide: document.documentElement.scrollWidth - innerWidth});
  document.body.append(pre);
})
</script>"""


@pytest.fixture
def server(service):
    """A server with a token, whose demo page has somebody who clicks."""
    app = make_app(service, Limits(tokens=("key",)))

    async def clicked(scope, receive, send):
        async def more(message):
            if scope.get("path") == "/demo" and message["type"] == "http.response.body":
                message = message | {"body": message["body"] + CLICKS.encode()}
            if scope.get("path") == "/demo" and message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] != b"content-length"]
                message = message | {"headers": headers}
            await send(message)

        await app(scope, receive, more)

    config = uvicorn.Config(clicked, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def browse(address, folder, *options, width=1200):
    return subprocess.run(
        [CHROMIUM, *_OFFLINE, f"--user-data-dir={folder}", f"--window-size={width},900", *options, address],
        capture_output=True,
        text=True,
        timeout=600,
    )


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_the_list_moves_with_each_click(server, tmp_path, width):
    shown = browse(f"{server}/demo", tmp_path, "--virtual-time-budget=8000", "--dump-dom", width=width)
    found = json.loads(
        html.unescape(re.search(r'<pre id="measured" hidden="">(.*?)</pre>', shown.stdout).group(1))
    )
    assert found["error"] == ""
    assert found["history"] == ["i002", "i001", "Seven Samurai (1954)"]
    assert [len(titles) for titles in found["seen"]] == [12, 12, 12]
    assert found["seen"][0] != found["seen"][1] != found["seen"][2]
    assert not {"i001", "i002", "Seven Samurai (1954)"} & set(found["seen"][2])
    assert any(move.startswith(("▲", "▼", "new")) for move in found["moves"])
    assert found["model"].startswith("Model model-0 (")
    assert found["wide"] <= 0, "the page scrolls sideways"
    # What the first look without a token was told, and nothing else.
    complaints = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert all("401" in line or "favicon" in line for line in complaints), complaints


@needs_browser
def test_the_interface_is_drawn_without_anything_from_elsewhere(server, tmp_path):
    shown = browse(f"{server}/docs", tmp_path, "--virtual-time-budget=3000", "--dump-dom")
    for part in ("<code>/recommend</code>", "exclude_seen", "RecommendOut", "x-session-id", "409"):
        assert part in shown.stdout, part
    assert not re.search(r"""(src|href)=["'](?:https?:)?//""", shown.stdout)
    assert "CONSOLE" not in shown.stderr, shown.stderr
