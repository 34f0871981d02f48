"""The part of the report page where alibi-detect's verdicts stand beside ours, with the reason where they differ."""

from __future__ import annotations

import html
from typing import Any

from drift.cells.types import ALIBI, OWN_TEST, REFERENCE
from drift.config import ALARMS
from drift.report.contents import LICENCE


def alibi_section(
    cells: list[dict[str, Any]], ours: dict[str, str], alpha: float, colours: dict[str, str]
) -> str:
    """Return the section.

    Args:
        cells: all cells of the report.
        ours: our verdict on each window.
        alpha: level of the adjusted p.
        colours: CSS class of each verdict.
    """
    theirs = [cell for cell in cells if cell["detector"].startswith(ALIBI)]
    if not theirs:
        return f"<p>alibi-detect was not run. {LICENCE}</p>"
    found = {(cell["detector"].removeprefix(ALIBI), cell["window"]): cell for cell in theirs}
    windows = list(dict.fromkeys(cell["window"] for cell in theirs))
    heads = "".join(f"<th>{window}</th>" for window in windows)
    mine = "".join(f'<td class="{colours[ours[window]]}">{ours[window]}</td>' for window in windows)
    lines = []
    for name in dict.fromkeys(cell["detector"].removeprefix(ALIBI) for cell in theirs):
        line = "".join(_verdict(found.get((name, window)), colours) for window in windows)
        lines.append(f"<tr><th>{name}</th>{line}</tr>")
    return (
        "<h2>alibi-detect beside ours</h2><p>It gets one row a user (mean of each signal, shares of genres), users of "
        "both sides left out of the reference. It looks at one window at a time with a raw p and no least effect; ours "
        "adjusts for all signals and windows and asks for an effect as well. Numbers are its p; the online detectors "
        "have none and say after how many users they fired. Yellow: it flags.</p>"
        f'<div class="scroll"><table class="beside"><tr><th></th>{heads}</tr><tr><th>ours</th>{mine}</tr>'
        f"{''.join(lines)}</table></div>{_reasons(theirs, cells, ours, alpha)}<p>{LICENCE}</p>"
    )


def _verdict(cell: dict[str, Any] | None, colours: dict[str, str]) -> str:
    """Return one detector's verdict on a window; figures in the tooltip."""
    if cell is None:
        return "<td></td>"
    if cell["status"] != "ok":
        words = "too few" if cell["status"] == "too_few" else "failed"
        kind = colours["undecided" if cell["status"] == "too_few" else "error"]
        return f'<td class="{kind}" title="{html.escape(cell["error"])}">{words}</td>'
    effect = cell["effect"]
    if cell["p"] is None:
        words = "no alarm" if effect is None else f"after {effect:.0f}"
    else:
        words = f"{cell['p']:.2g}" if cell["p"] >= 1e-4 else "&lt;.0001"
    tip = (
        f"statistic {'none' if effect is None else format(effect, '.3g')}, users {cell['n_users_ref']:,} and "
    )
    return f'<td class="{colours[cell["severity"]]}" title="{tip}{cell["n_users_cur"]:,}">{words}</td>'


def _reasons(
    theirs: list[dict[str, Any]], cells: list[dict[str, Any]], ours: dict[str, str], alpha: float
) -> str:
    """List the differences: one line for all detectors that differ for the same reason in a window."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for cell in theirs:
        window = cell["window"]
        why = why_they_differ(cell, _own(cells, window), ours[window], alpha)
        if why:
            grouped.setdefault((window, why), []).append(cell["detector"].removeprefix(ALIBI))
    lines = "".join(
        f"<li><b>{window}</b> ours {ours[window]}, not so {', '.join(names)}: {html.escape(why)}</li>"
        for (window, why), names in sorted(grouped.items())
    )
    if not lines:
        return "<p>They agree with ours in every window.</p>"
    return f"<details open><summary>Where they differ, and why</summary><ul>{lines}</ul></details>"


def why_they_differ(theirs: dict[str, Any], own: list[dict[str, Any]], verdict: str, alpha: float) -> str:
    """Return why alibi-detect's verdict on a window is another than ours; empty where they agree.

    Args:
        theirs: cell of one of its detectors.
        own: our cells of that window against the reference.
        verdict: ours on the window.
        alpha: level of the adjusted p.
    """
    flagged, alarmed = theirs["severity"] in ("noted", *ALARMS), verdict in ALARMS
    if theirs["status"] != "ok":
        return "it has too few users" if theirs["status"] == "too_few" else "it could not be computed"
    if verdict == "undecided":
        return "ours has too few users to decide" if flagged else ""
    if flagged == alarmed or not own:
        return ""
    return _flagged_alone(own, alpha) if flagged else _missed(theirs, own)


def _flagged_alone(own: list[dict[str, Any]], alpha: float) -> str:
    """Return why it flags and ours does not."""
    least = min(own, key=lambda cell: cell["p_adj"])
    if least["p_adj"] > alpha:
        return (
            f"it looks at one window's raw p; adjusted for all signals and windows our least p is "
            f"{least['p_adj']:.2g} ({least['signal']})"
        )
    significant = (cell for cell in own if cell["p_adj"] <= alpha)
    largest = max(significant, key=lambda cell: cell["effect"] / cell["threshold"])
    ratio = largest["effect"] / largest["threshold"]
    return (
        f"ours is significant too ({largest['signal']}), but its effect is {ratio:.1f} of what past windows "
        "differed by"
    )


def _missed(theirs: dict[str, Any], own: list[dict[str, Any]]) -> str:
    """Return why it does not flag and ours does."""
    alarms = [cell["signal"] for cell in own if cell["severity"] in ALARMS]
    if alarms == ["unseen_item"]:
        return "ours is about unseen_item alone, which it is not given"
    users = min(theirs["n_users_ref"], theirs["n_users_cur"])
    return f"ours sees whole histograms of {', '.join(alarms)}, it sees one mean of each of {users:,} users"


def _own(cells: list[dict[str, Any]], window: str) -> list[dict[str, Any]]:
    """Return our cells of a window against the reference that could be computed."""
    kind = (OWN_TEST, REFERENCE, window, "ok")
    names = ("detector", "comparison", "window", "status")
    return [cell for cell in cells if tuple(cell[name] for name in names) == kind]
