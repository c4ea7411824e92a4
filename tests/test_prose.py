"""Pages, docstrings, comments and messages in plain technical English: short sentences, and the terms of the field."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import offload_rllib

CHECKOUT = Path(__file__).parents[1]
LONGEST_SENTENCE = 40  # words
LONGEST_MEAN = 17.0  # words, over all pages

# Pages that a program writes: their words stand in the program.
GENERATED = {
    "results.md": "scripts/results",
    "paper_tables.md": "scripts/paper",
    "suite_results.md": "offload_rllib/suite",
    "hype.md": "scripts/hype",
}
PAGES = [
    page
    for page in [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").rglob("*.md"))]
    if page.name not in GENERATED and page.name != "CHANGELOG.md"  # the changelog is a list of what was
]
MODULES = sorted(Path(offload_rllib.__file__).parent.rglob("*.py"))

# Wordings that a textbook on queues, networks or reinforcement learning would not use, and better ones.
BETTER_WORDING = {
    r"by lot|lots are": "uniformly at random",
    r"what (came|comes|becomes|became) of": "the result of; what happens to",
    r"(is|are) none of": "is not; is rejected",
    r"is no (figure|heuristic|metric|number|run|value)": "is not a",
    r"nobody|anybody|everybody|somebody|whoever": "name the agent, node, policy or user",
    r"there alone": "only there",
    r"(?<=[,;] )else(?! if)": "otherwise",
    r"one's own|of yours": "your own; custom",
    r"but for": "except",
    r"hardly": "rarely; almost no",
    r"anew": "again",
    r"told": "advertised; reported; stated",
    r"news": "information",
    r"paid": "rewarded; receives",
    r"pays? for": "is rewarded for; costs",
    r"taken for": "assumed to be",
    r"(turned|thrown) away": "rejected; discarded",
    r"laid over|set beside": "compared with",
    r"(is|are) let|let in": "is admitted; is allowed",
    r"mend(s|ed|ing)?": "fix; repair",
    r"for ever": "indefinitely",
    r"go(es)? on|going on|went on": "continue; resume",
    r"that there is not|cannot be(?=[.,;:])": "does not exist; is invalid",
    r"(?<=, )for (it|they|there)|for nobody": "because",
    r"stands? apart": "is counted separately",
}


def blocks(text: str) -> Iterator[str]:
    """Yield the paragraphs, list items and table cells of a Markdown text, without code and formulas."""
    text = re.sub(r"<!--.*?-->|\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    block: list[str] = []
    in_list = False
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        item = re.match(r"\s*(?:[-*]|\d+\.) +(?=\S)", line)
        starts = item or not stripped or stripped[0] in "#|"
        if starts and block:
            yield " ".join(block)
            block = []
        if item:
            block, in_list = [line[item.end() :]], True
        elif stripped.startswith("|"):
            yield from (cell for cell in re.split(r"(?<!\\)\|", stripped) if re.search(r"[^\s:-]", cell))
        elif stripped.startswith("#"):
            yield stripped.lstrip("# ")
            in_list = False
        elif stripped:
            code = not block and line.startswith(" " * (6 if in_list else 4))
            in_list = in_list and (bool(block) or line.startswith(" "))
            if not code:
                block.append(stripped)


def sentences(block: str) -> list[str]:
    """Return the sentences of a block; inline code and formulas count as one word."""
    block = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", block)
    block = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block)
    block = re.sub(r"`[^`]*`|\$[^$]+\$|<https?:[^>]*>", "CODE", block).replace("*", "")
    return [part for part in re.split(r"(?<=[.!?])[)\"']*\s+(?=[\"'(]?[A-ZÀ-Ý0-9])", block.strip()) if part]


def words(sentence: str) -> int:
    """Return how many words a sentence has; signs alone are none."""
    return sum(1 for word in sentence.split() if re.search(r"\w", word))


def faults(text_blocks: Iterable[str], longest: int = LONGEST_SENTENCE) -> list[str]:
    """Return the sentences that are too long, and the wordings to replace."""
    found = []
    for sentence in (sentence for block in text_blocks for sentence in sentences(block)):
        if words(sentence) > longest:
            found.append(f"{words(sentence)} words, at most {longest}: {sentence}")
        for wording, better in BETTER_WORDING.items():
            match = re.search(rf"\b(?:{wording})\b", sentence, re.IGNORECASE)
            if match:
                found.append(f"'{match[0]}', better: {better}. In: {sentence}")
    return found


def docstrings(tree: ast.AST) -> list[ast.Constant]:
    """Return the docstrings of a module, also those of attributes."""
    bodies = [body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list)]
    values = [line.value for body in bodies for line in body if isinstance(line, ast.Expr)]
    return [value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def listed(docstring: str) -> str:
    """Return a docstring as Markdown: the entries of its sections (`Args:` and so on) as items, without their names."""
    lines, inside = [], False
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
        entry = inside and re.match(r" {4}(?:[\w*, ]+: )?(?=\S)", line)
        lines.append("" if inside and not line.startswith(" ") else f"- {line[entry.end() :]}" if entry else line)
    return "\n".join(lines)


def texts(tree: ast.AST) -> list[str]:
    """Return the other texts of a module: messages and help. What a text inserts counts as a word."""
    known = {id(value) for value in docstrings(tree)}
    known |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known:
            found.append(node.value)
    return [text for text in found if " " in text]


def comments(source: str) -> list[str]:
    """Return the comments of a module; those in lines of their own, one after the other, are one.

    Directives of the type checker are left out.
    """
    found: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string.lstrip("#: ")
        if token.type == tokenize.COMMENT and not text.startswith("pyright:"):
            alone = token.line.strip().startswith("#")
            if alone and last == token.start[0] - 1:
                found[-1] += f" {text}"
            else:
                found.append(text)
            last = token.start[0] if alone else -1
    return found


PAGE = """\
# Title

One `a. B` link [to. It](x.md). Two, e.g. small.

    code here. Not read

- Item one
  goes further. New
- Item two

| a cell | 3 |
|---|---:|

```python
no. No
```
"""


def test_sentences_are_found_in_paragraphs_lists_and_tables_and_not_in_code() -> None:
    found = [sentence for block in blocks(PAGE) for sentence in sentences(block)]
    assert found[:5] == ["Title", "One CODE link to.", "It.", "Two, e.g. small.", "Item one goes further."]
    assert found[5:] == ["New", "Item two", "a cell", "3"]


def test_long_sentences_and_wordings_to_avoid_are_found() -> None:
    assert not faults([" ".join(["word"] * LONGEST_SENTENCE) + ". Anything else is something else."])
    assert faults([" ".join(["word"] * (LONGEST_SENTENCE + 1))])
    for sentence in ("Ties are decided by lot.", "Keep it, else send it.", "What became of each key.", "As last told."):
        assert faults([sentence]), sentence


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_pages_are_plain_english(page: Path) -> None:
    found = faults(list(blocks(page.read_text())))
    assert not found, "\n".join(found)


MODULE = '''\
"""Ties are decided by lot."""
KEY = 1  # nobody
"""What became of it."""
# As last
# told.
raise ValueError(f"{KEY} is none of these")
'''


def test_docstrings_comments_and_messages_of_a_module_are_read() -> None:
    tree = ast.parse(MODULE)
    assert [value.value for value in docstrings(tree)] == ["Ties are decided by lot.", "What became of it."]
    assert texts(tree) == ["X is none of these"]
    assert comments(MODULE) == ["nobody", "As last told."]
    section = "Return it.\n\n    Args:\n        a: one\n            thing.\n        b: another.\n    "
    assert list(blocks(listed(section))) == ["Return it.", "one thing.", "another."]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(CHECKOUT)))
def test_modules_are_plain_english(module: Path) -> None:
    source = module.read_text()
    tree = ast.parse(source)
    found = faults(block for value in docstrings(tree) for block in blocks(listed(str(value.value))))
    found += faults(comments(source)) + faults(texts(tree), longest=10_000)
    assert not found, "\n".join(found)


def test_sentences_are_short_on_average() -> None:
    lengths = [
        words(sentence)
        for page in PAGES
        for block in blocks(page.read_text())
        for sentence in sentences(block)
        if sentence.endswith((".", ":", "!", "?"))
    ]
    assert sum(lengths) / len(lengths) <= LONGEST_MEAN
