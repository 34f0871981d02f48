"""Pictures of a terminal in the user guide, and what a command leaves on its screen."""

import struct
from pathlib import Path

from tools.terminal_picture import left_on_screen

DOCS = Path(__file__).parents[1] / "docs"


def test_what_was_wiped_or_written_over_is_not_in_the_picture():
    """Seen to fail: with lines that a live display wiped kept."""
    display = "\x1b[?25lbar\r\nmore\r\x1b[2K\x1b[1A\x1b[2K"
    said = f"first\r\n{display}second\r\nstep 1\rstep 2\r\n\x1b[1mbold\x1b[0m\r\n"
    assert left_on_screen(said) == "first\nsecond\nstep 2\n\x1b[1mbold\x1b[0m"


def test_each_picture_is_small_and_on_a_page():
    pages = "".join(page.read_text() for page in (DOCS / "guide").glob("*.md"))
    pictures = sorted((DOCS / "terminal").iterdir())
    assert len(pictures) >= 3
    for picture in pictures:
        head = picture.read_bytes()[:24]
        assert head[1:4] == b"PNG"
        assert struct.unpack(">I", head[16:20]) == (1000,)  # the width of 80 columns
        assert picture.stat().st_size <= 150_000
        assert f"](../terminal/{picture.name})" in pages
