"""Draws the ratings of each year of MovieLens archives as an SVG; prints the numbers too.

python tools/yearly_volume.py FOLDER_OF_ARCHIVES docs/yearly_volume.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ss4rec.data.sources import Source

NAMES = ("ml-1m", "ml-100k", "ml-latest-small", "ml-32m-slice", "ml-union-open")
FIRST, LAST = 1995, 2023
BAR, HEIGHT, LEFT, STEP = 22, 70, 130, 112
COLOUR = "#4878a8"


def volume(archive: Path) -> dict[int, int]:
    """Return the ratings of each calendar year (UTC)."""
    times_R = Source.open(archive).read().times_R
    years, counts = np.unique(times_R.astype("datetime64[s]").astype("datetime64[Y]"), return_counts=True)
    return dict(zip((years.astype(int) + 1970).tolist(), counts.tolist(), strict=True))


def panel(name: str, counts: dict[int, int], top: int) -> str:
    """Return the bars of one archive; each panel has a scale of its own."""
    most = max(counts.values())
    foot = top + HEIGHT
    parts = [
        f'<text x="8" y="{top + 30}" font-weight="bold">{name}</text>',
        f'<text x="8" y="{top + 46}" fill="#666">{sum(counts.values()):,}</text>',
        f'<text x="{LEFT - 6}" y="{top + 9}" text-anchor="end" fill="#666">{most:,}</text>',
        f'<line x1="{LEFT}" x2="{LEFT + BAR * (LAST - FIRST + 1)}" y1="{foot}" y2="{foot}" stroke="#999"/>',
    ]
    for year, count in counts.items():
        height = max(HEIGHT * count / most, 0.7)
        place = LEFT + BAR * (year - FIRST)
        parts.append(
            f'<rect x="{place + 2}" y="{foot - height:.1f}" width="{BAR - 4}" height="{height:.1f}" fill="{COLOUR}">'
            f"<title>{year}: {count:,}</title></rect>"
        )
    for year in range(FIRST, LAST + 1, 4):
        place = LEFT + BAR * (year - FIRST) + BAR / 2
        parts.append(f'<text x="{place}" y="{foot + 14}" text-anchor="middle" fill="#666">{year}</text>')
    return "\n".join(parts)


def main() -> None:
    """Read the archives and write the picture."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    panels = []
    for number, name in enumerate(NAMES):
        counts = volume(folder / f"{name}.zip")
        print(name, counts)
        panels.append(panel(name, counts, 16 + number * STEP))
    width, height = LEFT + BAR * (LAST - FIRST + 1) + 12, 16 + len(NAMES) * STEP
    body = "\n".join(panels)
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">\n'
        f"<title>Ratings a year of the MovieLens archives</title>\n"
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
