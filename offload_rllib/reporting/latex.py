"""Tables as LaTeX that fits a page: wide ones are split, and long headings are stacked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.ft2font import FT2Font

# Of the article class at 10 pt; the default space on either side of a column is 6 pt.
TEXT_WIDTH_PT = 345.0
COLUMN_SPACE_PT = 12.0
WIDEST_GLYPH_PT = 7.8
SHORTEST_LINE = 10
SPECIAL = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "±": r"$\pm$", "µ": r"$\mu$", "~": r"\~{}"}


@cache
def _glyph_pt(character: str) -> float:
    """Return the width of a character in Computer Modern at 10 pt."""
    font = FT2Font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"))
    font.set_size(10, 72)
    if character in "-±+<>=" or font.get_char_index(ord(character)) == 0:  # set in mathematics, or not in the font
        return WIDEST_GLYPH_PT
    return font.load_char(ord(character)).linearHoriAdvance / 65536


def width_pt(text: str) -> float:
    """Return about how wide a text is set, pt."""
    return sum(map(_glyph_pt, text))


def _escaped(text: str) -> str:
    found = "".join(SPECIAL.get(character, character) for character in text)
    # A sign, not a hyphen: before a digit that nothing but an opening bracket or a space precedes.
    return "".join(
        "$-$" if one == "-" and found[i + 1 : i + 2].isdigit() and (i == 0 or found[i - 1] in " [(") else one
        for i, one in enumerate(found)
    )


def _heading(title: str, cells: Sequence[str]) -> list[str]:
    """Return the lines of a heading, about as wide as the cells below it."""
    width = max([SHORTEST_LINE, *map(len, cells)])
    return textwrap.wrap(title, width, break_long_words=False) or [""]


def column_pt(title: str, cells: Sequence[str]) -> float:
    """Return about how wide a column is set, pt, with the space beside it."""
    return max(map(width_pt, [*_heading(title, cells), *cells])) + COLUMN_SPACE_PT


def split(frame: pd.DataFrame, limit_pt: float = TEXT_WIDTH_PT) -> list[pd.DataFrame]:
    """Return a table of text as tables that are no wider than a limit; each has the first column."""
    columns = list(map(str, frame.columns))
    widths = [column_pt(name, list(map(str, frame.iloc[:, i]))) for i, name in enumerate(columns)]
    parts: list[list[int]] = [[]]
    used = widths[0]
    for i in range(1, len(columns)):
        if parts[-1] and used + widths[i] > limit_pt:
            parts.append([])
            used = widths[0]
        parts[-1].append(i)
        used += widths[i]
    return [frame.iloc[:, [0, *part]] for part in parts]


def latex_table(frame: pd.DataFrame, title: str) -> str:
    """Return a table of text as ``tabular`` environments of the package booktabs, below a comment with the title."""
    parts = split(frame)
    lines = []
    for number, part in enumerate(parts, 1):
        lines.append(f"% {title}" + (f" ({number} of {len(parts)})" if len(parts) > 1 else ""))
        headings = []
        for i, name in enumerate(map(str, part.columns)):
            stacked = list(map(_escaped, _heading(name, list(map(str, part.iloc[:, i])))))
            side = "l" if i == 0 else "r"
            lines_of = r" \\ ".join(stacked)
            headings.append(lines_of if len(stacked) == 1 else rf"\shortstack[{side}]{{{lines_of}}}")
        lines.append(rf"\begin{{tabular}}{{l{'r' * (part.shape[1] - 1)}}}")
        lines += [r"\toprule", " & ".join(headings) + r" \\", r"\midrule"]
        lines += [" & ".join(_escaped(str(cell)) for cell in row) + r" \\" for row in part.itertuples(index=False)]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)
