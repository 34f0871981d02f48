"""The look at the user guide's sentences and lines."""

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools/plain_english.py"))
WORDS = " ".join("a" * 31)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"# Head\n\nShort. {WORDS}.\n", "p.md:3: 31 words, at most 30"),
        (f"- one\n- {WORDS}\n", "p.md:2: 31 words"),
        (f"| a | {WORDS} |\n", "p.md:1: "),
        (f"See [{WORDS}](x.md).\n", "p.md:1: "),
        ("x" * 121, "p.md:1: 121 characters, at most 120"),
        (f"```bash\n{'x' * 121}\n```\n", "p.md:2: 121 characters"),
        (f"{WORDS[:40]}. {WORDS[:40]}.\n", None),
        (f"```\n{WORDS}\n```\n", None),
    ],
)
def test_a_long_sentence_or_line_is_told(tmp_path, text, told):
    """Seen to fail: with `MAX_WORDS` of 31; with cells of tables left out."""
    page = tmp_path / "p.md"
    page.write_text(text)
    found = list(TOOL["problems"](page))
    assert any(line.startswith(told) for line in found) if told else not found


def test_lines_of_all_pages_are_looked_at(tmp_path):
    """Code of the reference too; rows of its tables may be long. Seen to fail: with code left out."""
    assert {"clusters.md", "data.md", "NOTES.md"} <= {page.name for page in TOOL["other_pages"]()}
    page = tmp_path / "p.md"
    page.write_text(f"```\n{'x' * 121}\n```\n| {'x' * 121} |\n")
    assert list(TOOL["long_lines"](page, tables=False)) == ["p.md:2: 121 characters, at most 120"]


def test_every_page_of_the_user_guide_is_plain():
    """Pages of the guide that lie outside docs/guide are among them."""
    assert {"README.md", "watch.md", "serving.md", "first-steps.md"} <= {
        page.name for page in TOOL["pages"]()
    }
    assert TOOL["main"]([]) == 0
