"""Draws docs/rooms.svg, the picture in architecture.md, from the imports: `python docs/draw_rooms.py`.

An arrow leads from a room to one that imports it; arrows that follow from others (config → trial, since config →
training → trial) are left out. Under each name stands what the room says of itself in its `__init__.py`.
"""

import ast
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
PLACES = {
    "config": (0, 0), "models": (1, 0), "training": (2, 0.5), "trial": (3, 0.5), "sweep": (4, 0), "jobs": (5, 1),
    "data": (1, 1), "storage": (0, 2), "runs": (1, 2), "analysis": (2, 2), "report": (4, 2), "inference": (4, 1),
}  # fmt: skip
"""Column and row of each room; arrows lead to the right."""
BESIDE = ("errors", "formatting", "system", "cli", "api")
"""Imported everywhere, or, like the jobs, above all rooms: drawn nowhere."""
WIDTH, HEIGHT, GAP, LETTERS = 178, 98, 46, 29


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in PLACES}
    for path in [*sorted((ROOT / "catdog").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = parts[1] if parts[0] == "catdog" else "jobs"
        if room in BESIDE or room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("catdog."):
                found[room].add((node.module or "").split(".")[1])
    return {room: others - {room, *BESIDE} for room, others in found.items()}


def direct(imported: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the arrows (imported, importer) that do not follow from others."""

    def all_below(room: str) -> set[str]:
        return imported[room].union(*map(all_below, imported[room]))

    return [
        (other, room)
        for room, others in imported.items()
        for other in sorted(others)
        if not any(other in all_below(between) for between in others)
    ]


def charter(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    if room == "jobs":
        return "Thin entry points: parse options, call one function."
    text = ast.get_docstring(ast.parse((ROOT / "catdog" / room / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("`", "")


def box(room: str) -> str:
    """Return a room as a rectangle with its name and its charter."""
    x, y = corner(room)
    lines = textwrap.wrap(charter(room), LETTERS, max_lines=6, placeholder=" …")
    text = "".join(
        f'<text class="charter" x="{x + 10}" y="{y + 38 + 13 * i}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x + 10}" y="{y + 21}">{room}</text>{text}'
    )


def arrow(start: str, end: str) -> str:
    """Return a curve from the right side of one room to the left side of another."""
    (x1, y1), (x2, y2) = corner(start), corner(end)
    x1, y1, x2, y2 = x1 + WIDTH, y1 + HEIGHT / 2, x2 - 5, y2 + HEIGHT / 2
    bend = (x2 - x1) / 2
    return f'<path d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}" marker-end="url(#head)"/>'


def corner(room: str) -> tuple[float, float]:
    """Return the upper left corner of a room."""
    column, row = PLACES[room]
    return 4 + column * (WIDTH + GAP), 4 + row * (HEIGHT + 28)


def draw() -> str:
    """Return the picture."""
    width, height = 8 + 6 * WIDTH + 5 * GAP, 8 + 3 * HEIGHT + 2 * 28
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            ' font-family="system-ui, sans-serif">',
            "<style>:root{--ink:#222;--line:#6b7686;--room:#eef3fa}"
            "@media(prefers-color-scheme:dark){:root{--ink:#e4e4e4;--line:#93a0b3;--room:#1d2733}}"
            "rect{fill:var(--room);stroke:var(--line)}path{fill:none;stroke:var(--line);stroke-width:1.4}"
            "#head path{fill:var(--line);stroke:none}text{fill:var(--ink)}"
            ".name{font-size:15px;font-weight:600}.charter{font-size:10.5px}</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8Z"/></marker>',
            *(arrow(start, end) for start, end in direct(imports())),
            *map(box, PLACES),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
