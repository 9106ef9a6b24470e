"""The table that people read."""

from __future__ import annotations

_HEAD = ("case", "value", "ceiling", "ratio", "goal", "met")
_MET = {True: "yes", False: "NO", None: ""}


def figure(number: float) -> str:
    """Three digits that matter: 0.0472, 51.3, 1,820."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def rows(records: list[dict]) -> list[tuple[str, ...]]:
    out = []
    for r in records:
        ceiling = ""
        if r["ceiling"] is not None:
            ceiling = f"{figure(r['ceiling'])} {r['ceiling_name']}"
        out.append((
            r["case"], f"{figure(r['value'])} {r['unit']}", ceiling,
            "" if r["ratio"] is None else f"{figure(r['ratio'])} x", r["goal"] or "", _MET[r["met"]],
        ))
    return out


def table(records: list[dict]) -> str:
    lines = [_HEAD, *rows(records)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
