"""Pages drawn in a real browser, without a network, at several widths."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
WIDTHS = (1280, 400)
_OFFLINE = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"),
]
_MEASURE = """<script>addEventListener("load", () => {
  const at = part => part.getBoundingClientRect();
  const measured = [...document.querySelectorAll("iframe")].map(frame => {
    const inner = frame.contentDocument;
    const boxes = [...inner.querySelectorAll("svg:not(.spark)")].map(svg => {
      const all = names => [...svg.querySelectorAll(names)], s = at(svg), marks = all("circle,rect,polyline");
      return {
        name: svg.getAttribute("aria-label"),
        width: s.width,
        marks: marks.filter(m => at(m).width + at(m).height > 0.5).length,
        outside: [...marks, ...all("text")].filter(m =>
          at(m).left < s.left - 1 || at(m).right > s.right + 1 || at(m).bottom > s.bottom + 1).map(m => m.outerHTML),
        text: Math.min(...all("text").map(t => at(t).height))}});
    const tipped = inner.querySelector("[data-tip]"), tip = inner.getElementById("tip");
    tipped?.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 9, clientY: 9}));
    return {page: inner.documentElement.scrollWidth, boxes, tip: tip.hidden ? null : tip.textContent,
      tipped: tipped?.dataset.tip}});
  const pre = document.createElement("pre"); pre.id = "measured";
  pre.textContent = JSON.stringify(measured);
  document.body.append(pre)})</script>"""


def measure(page: str, folder) -> dict[int, dict]:
    """Draw a page at each of `WIDTHS` and return what was measured.

    Each result has `page` (width without scrolling), `boxes` (one a chart) and `tip` (text shown under the pointer).
    Fails if the browser complains, say of something that it would have to load.
    """
    # A window of Chromium is at least 500 pixels wide, so the page goes into a frame of the width under test.
    frames = "".join(
        f'<iframe style="border:0" width="{width}" height="3000" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    path = folder / "frame.html"
    path.write_text(f'<meta charset="utf-8">{frames}{_MEASURE}')
    shown = subprocess.run(
        [
            *(CHROMIUM, *_OFFLINE, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,3000"),
            *("--virtual-time-budget=2000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', shown.stdout).group(1)))
    return dict(zip(WIDTHS, found, strict=True))


def require_readable(page: str, folder) -> list[str]:
    """Check that a page and its charts fit and can be read at every width, and return the charts' names."""
    for width, found in (measured := measure(page, folder)).items():
        assert found["page"] <= width, f"the page scrolls sideways at {width}"
        assert found["tip"] == found["tipped"] is not None, "nothing shows under the pointer"
        for box in found["boxes"]:
            assert box["marks"] > 0, f"{box['name']} is empty"
            assert not box["outside"], f"{box['name']} has parts outside at {width}"
            assert box["width"] >= 200, f"{box['name']} is {box['width']} px wide"
            assert box["text"] >= 9, f"{box['name']} has text of {box['text']} px at {width}"
    return [box["name"] for box in measured[WIDTHS[0]]["boxes"]]


def require_self_contained(page: str) -> None:
    """Check that a page names nothing to load, and that it has no script but the kit's."""
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(|<script[^>]""", page)
    assert page.count("<script>") == 1
