"""The report kit: everything is escaped, and every chart is drawn in a real browser at two widths."""

import re

import pytest
from markupsafe import Markup

from ss4rec.report import Axis, Bar, Cell, Frame, Line, Mark, charts, label, render, write_page
from ss4rec.report.parts import element, shortened
from tests.browser import needs_browser, require_readable, require_self_contained

EVIL = """<b>"x" & 'y'</b>"""


def every_chart(text: str) -> list[Markup]:
    points, marks = (
        [(0.0, 0.1), (1.0, 0.3), (2.0, 0.2)],
        [Mark(n, n * 10, "s2", text, n * 9, n * 11) for n in range(5)],
    )
    band = [(0.05, 0.15), (0.2, 0.4), (0.1, 0.3)]
    many = [Line(f"{text}{n}", points, "s1") for n in range(20)]
    return [
        charts.lines(text, text, [Line(text, points, "s1", band)], events=[(1.0, text)]),
        charts.lines(text, text, [Line(text, points)], x=Axis.of([text[:5], "b", "c"])),
        charts.lines(text, text, many),
        charts.lines(text, text, [Line(text, points, "s1", band)], frame=Frame(width=740)),
        charts.scatter(text, text, marks, steps=points, diagonal=True),
        charts.columns(text, text, [*marks, Mark(6, -20, tip=text)], outline=points, keys=[("s1", text)]),
        charts.bars(text, text, [Bar(text * 3, 0.5, text[:9], tip=text, low=0.4, high=0.6), Bar("b", -0.2)]),
        charts.parallel(
            text,
            text,
            [(text, Axis.of(["a", text])), ("b", Axis(0, 1))],
            [("s1", text, [0, 0.5]), ("s2", text, [1, None])],
        ),
    ]


@pytest.fixture
def page():
    def make(text: str) -> str:
        return render(
            "tests.report",
            "kit.html.j2",
            text=text,
            charts=every_chart(text),
            multiples=charts.small_multiples(text, text, every_chart(text)[:2]),
            rows=[[text, Cell(text, "good", text), 3, None, charts.sparkline([1, 3, 2], text)]],
            heat=[(Cell(text, tip=text), [Cell(text, "severe", text), None], text)],
        )

    return make


def test_everything_is_escaped(page):
    text = page(EVIL)
    require_self_contained(text)
    assert EVIL not in text
    assert "<b>&#34;" not in text
    assert '"x"' not in text
    # The same page with plain words has the same elements in the same order.
    tags = [re.findall(r"<(/?[a-zA-Z]+)", found) for found in (text, page("plain words"))]
    kept = [[tag for tag in found if tag not in ("text", "/text", "title", "/title")] for found in tags]
    assert kept[0] == kept[1]


def test_a_missing_value_is_an_error_and_not_an_empty_place():
    with pytest.raises(Exception, match="'text' is undefined"):
        render("tests.report", "kit.html.j2")


@needs_browser
def test_every_chart_fits_and_is_readable(page, tmp_path):
    assert len(require_readable(page("a name"), tmp_path)) == len(every_chart("")) + 2


def test_values_of_all_lines_are_read_together():
    rows = [Line("a", [(1, 0.5), (2, 0.25)], band=[(0.4, 0.6), (0.2, 0.3)]), Line("b", [(2, 0.125)])]
    drawn = charts.lines("t", "", rows)
    assert "<title>1\na 0.5 (0.4 to 0.6)</title>" in drawn
    assert "<title>2\na 0.25 (0.2 to 0.3)\nb 0.125</title>" in drawn


def test_bars_and_columns_go_both_ways_from_zero():
    drawn = charts.columns("t", "", [Mark(0, 2.0), Mark(1, -1.0)], y=Axis(-2.0, 2.0))
    up, down = re.findall(r'<rect [^>]*y="([\d.]+)"[^>]*height="([\d.]+)"', drawn)
    assert float(up[0]) + float(up[1]) == float(down[0])  # both touch zero
    assert float(up[1]) == 2 * float(down[1])


def test_a_page_appears_whole(tmp_path):
    write_page(tmp_path / "a.html", "ä")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_elements():
    assert element("text", "a<", class_="b", text_anchor="end", x=1.25, y=None, tip="c&") == (
        '<text class="b" text-anchor="end" x="1.2"><title>c&amp;</title>a&lt;</text>'
    )
    assert shortened("abcdefgh", 30) == "abc…"


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0.0, 1.0, False), (-3.0, 1e6, False), (1e-4, 3e-2, True), (0.98, 0.99, False)]
)
def test_ticks_lie_inside_their_axis(low, high, log):
    axis = Axis.around([low, high], log=log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(axis.low <= value <= axis.high for value, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)
    places = [axis.at(value, 0, 100) for value, _ in ticks]
    assert places == sorted(places)


def test_axes_with_zero_and_labels():
    assert Axis.around([2.0, 4.0], zero=True).low == 0.0
    assert Axis.around([-2.0, -1.0], zero=True).high == 0.0
    assert [label(value) for value in (0, 0.12345, 1234.5, 12345, 1234567, 0.00012)] == [
        "0", "0.1235", "1234", "12,345", "1.2e6", "1.2e-4",
    ]  # fmt: skip
