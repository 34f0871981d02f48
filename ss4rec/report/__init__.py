"""Report pages: one template, one style and one set of SVG charts for sweeps, drift and runs.

A page is one file. It loads nothing from the network, can be read without script, follows the reader's light or dark
setting, and fits 1,280 and 400 pixels. Everything that a caller passes in is escaped.

How to make a page:

1. Put a template beside your code, as package data in `PACKAGE/templates/`:

       {% extends "page.html.j2" %}
       {% import "macros.html.j2" as kit %}
       {% block title %}Sweep {{ name }}{% endblock %}
       {% block body %}
       <h1>{{ headline }}</h1>
       {{ kit.keys([("s1", "to its end"), ("muted", "pruned")]) }}
       <div class="charts">{{ history }}{{ cost }}</div>
       {{ kit.table(["trial", "NDCG@10"], rows) }}
       {% endblock %}

2. Draw charts in Python; each returns a `<figure>` that the template prints as it is:

       from ss4rec.report import Axis, Line, Mark, charts
       history = charts.scatter("History", "NDCG@10 by trial", [Mark(1, 0.2, "s1", "trial 1: 0.2")])
       model = Line("model", [(0, 0.1), (1, 0.2)], "s1", band=[(0.09, 0.11), (0.18, 0.22)])
       curve = charts.lines("HR@10", "by window", [model])

3. Render and write:

       write_page(path, render("PACKAGE", "sweep.html.j2", name=..., headline=..., history=history, rows=rows))

A *tone* is the colour of a mark, line, key or table cell. Series: `s1` to `s6`. States: `strong`, `muted`, `good`,
`warn`, `bad`, `severe`, `error`. `kit.table` and `kit.heat_map` take texts, numbers or `Cell(text, tone, tip)`.
The tip of a mark, a bar or a cell shows under the mouse or a finger; without script it is the browser's own tooltip.
"""

from ss4rec.report.axis import Axis, label
from ss4rec.report.page import Cell, render, write_page
from ss4rec.report.parts import Bar, Frame, Line, Mark

__all__ = ["Axis", "Bar", "Cell", "Frame", "Line", "Mark", "label", "render", "write_page"]
