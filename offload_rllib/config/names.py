"""Names that users give, as tables, files, pages and terminals can show them."""

from __future__ import annotations

# What begins markup somewhere: a tag or an entity in HTML, a cell or code in Markdown, a formula in a drawing.
MARKUP = frozenset("<>|&`$")
# What a spreadsheet takes for the beginning of a formula.
FORMULA = frozenset("=+-@")


def plain_name(name: str) -> str:
    """Return a name with `_` in place of characters that are not text, or are markup; most names stay unchanged.

    Used where a name enters: as that of a policy, of an environment, of a run.
    """
    plain = "".join("_" if c in MARKUP or not c.isprintable() else c for c in name)
    return f"_{plain[1:]}" if plain[:1] in FORMULA else plain


def one_line(text: str) -> str:
    """Return a description as one line of printable text."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def as_markdown(text: str) -> str:
    """Return a description as one line of Markdown that shows it, and is nothing else."""
    escapes = {c: f"\\{c}" for c in "\\`*_[]#~"} | {"|": "&#124;", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return "".join(escapes.get(c, c) for c in one_line(text))
