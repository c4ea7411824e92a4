"""What the site needs beyond the pages in docs/: pages from the top of the checkout, files that pages link, formulas.

MkDocs calls these functions while it builds (`hooks` in mkdocs.yml). The pages stay as GitHub shows them: links lead to
files of the checkout, and formulas stand between dollar signs.
"""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml import converter  # pyright: ignore[reportMissingImports] - only `make docs` installs it
from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports] - the same

from offload_rllib import MODULES

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
# Pages at the top of the checkout, and their names on the site.
TOP = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
API = "python.md"
# Notebooks, and the pages that show them.
NOTEBOOKS = {
    f"examples/notebooks/{path.name}": f"notebooks/{path.stem}.md"
    for path in sorted((CHECKOUT / "examples" / "notebooks").glob("*.ipynb"))
}
LINK = re.compile(r"(\]\()([^)#\s:]*)((?:#[^)\s]+)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages at the top of the checkout, the notebooks, and every file that a page links."""
    for name, page in TOP.items():
        files.append(
            File.generated(config, page, content=relinked((CHECKOUT / name).read_text(), CHECKOUT / name, page))
        )
    for name, page in NOTEBOOKS.items():
        files.append(
            File.generated(config, page, content=relinked(notebook_text(CHECKOUT / name), CHECKOUT / name, page))
        )
    pages = [*(CHECKOUT / name for name in TOP), *DOCS.rglob("*.md"), *(CHECKOUT / name for name in NOTEBOOKS)]
    linked = {target for page in pages for target in targets(page) if not inside(target)}
    for target in sorted(linked):
        path = target.relative_to(CHECKOUT)
        if target.is_file() and str(path) not in TOP | NOTEBOOKS:
            files.append(File.generated(config, site_path(path), content=target.read_text()))
    return files


def targets(page: Path) -> list[Path]:
    """Return the files and folders of the checkout that a page links."""
    text = notebook_text(page) if page.suffix == ".ipynb" else page.read_text()
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = [(page.parent / target).resolve() for _, target, _ in LINK.findall(text) if target]
    return [path for path in found if path.exists()]


def notebook_text(path: Path) -> str:
    """Return a notebook as Markdown: its texts, code, and what it printed and drew."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        language = "text" if source.startswith(("!", "%%")) else "python"
        parts.append(f"```{language}\n{source}\n```")
        parts += [output_text(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def output_text(output: dict[str, Any]) -> str:
    """Return an output of a cell as Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![Output of the cell above](data:image/png;base64,{''.join(data['image/png'].split())})"
    if "text/html" in data:
        table = re.search(r"<table.*</table>", "".join(data["text/html"]), re.DOTALL)
        return table[0].replace(' border="1" class="dataframe"', "") if table else ""
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```"


def inside(path: Path) -> bool:
    """Return whether a file is in docs/, which MkDocs reads by itself."""
    return path.is_relative_to(DOCS)


def site_path(path: Path) -> str:
    """Return where a file of the checkout is on the site: as text, which browsers show."""
    return f"files/{path}.txt"


def relinked(text: str, source: Path, page: str) -> str:
    """Return a page whose links lead to where the site has the files; links to folders become text.

    Args:
        text: of the page.
        source: where the checkout has the page.
        page: where the site has it.
    """
    here = os.path.dirname(page)  # noqa: PTH120 - it need not exist

    def lead(found: re.Match[str]) -> str:
        target = (source.parent / found[2]).resolve()
        if not found[2] or not target.exists():
            return found[0]
        if inside(target):
            goal = str(target.relative_to(DOCS))
        else:
            path = target.relative_to(CHECKOUT)
            goal = (TOP | NOTEBOOKS).get(str(path)) or site_path(path)
        return f"{found[1]}{os.path.relpath(goal, here or '.')}{found[3]}"

    folders = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)\)")

    def without_folder(found: re.Match[str]) -> str:
        return found[1] if (source.parent / found[2]).resolve().is_dir() else found[0]

    return LINK.sub(lead, folders.sub(without_folder, text))


def widely_indented(text: str) -> str:
    """Return Markdown with what belongs to a list item four characters in, as Python-Markdown wants it, and not two.

    An item of several paragraphs gets an empty line behind it as well.
    """
    lines: list[str] = []
    in_code, in_item, parts = False, False, False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and line and not line.startswith(" "):
            if parts and lines[-1] and line.startswith("- "):
                lines.append("")
            in_item, parts = line.startswith("- "), False
        within = in_item and not in_code and line.startswith("  ")
        parts |= within and not lines[-1]
        lines.append(f"  {line}" if within else line)
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 - MkDocs' signature
    """Let links lead to where the site has files; add the docstrings of the public names to their page."""
    path = page.file.src_uri
    markdown = widely_indented(markdown)
    if path in TOP.values() or path in NOTEBOOKS.values():
        return markdown
    markdown = relinked(markdown, DOCS / path, path)
    if path == API:
        names = re.findall(r"^\| `(\w+)` \|", markdown, re.MULTILINE)
        markdown += "".join(f"\n\n::: offload_rllib.{MODULES[name]}.{name}\n" for name in names)
    return markdown


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001 - MkDocs' signature
    """Replace formulas by MathML, which browsers draw without a script."""

    def formula(found: re.Match[str]) -> str:
        block = found[1] == "div"
        text = html.unescape(found[2].strip())[2:-2]
        drawn = converter.convert(text, display="block" if block else "inline")
        return f'<div class="formula">{drawn}</div>' if block else drawn

    return re.sub(r'<(div|span) class="arithmatex">(.*?)</\1>', formula, content, flags=re.DOTALL)
