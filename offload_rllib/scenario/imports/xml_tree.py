"""XML of others as a tree that knows the line and the column of every element; entities are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from offload_rllib.config.base import LARGEST, SMALLEST
from offload_rllib.config.errors import ConfigError
from offload_rllib.config.files import read_bytes

DEEPEST = 32


@dataclass
class Element:
    """One element."""

    path: Path
    tag: str
    line: int
    column: int
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The file and the place in it."""
        return f"{self.path}: row {self.line}, column {self.column}: <{self.tag}>"

    def all(self, tag: str) -> Iterator[Element]:
        """Yield the children with a tag."""
        return (child for child in self.children if child.tag == tag)

    def one(self, tag: str) -> Element:
        """Return the child with a tag.

        Raises:
            ConfigError: there is none, or more than one.
        """
        found = list(self.all(tag))
        if len(found) != 1:
            raise ConfigError(f"{self.where}: has {len(found)} <{tag}>; accepted: one")
        return found[0]

    def number(self, tag: str, lowest: float = SMALLEST, highest: float = LARGEST) -> float:
        """Return the number in a child.

        Raises:
            ConfigError: there is none, or it is out of range.
        """
        child = self.one(tag)
        try:
            value = float(child.text)
        except ValueError:
            value = float("nan")
        if not lowest <= value <= highest:
            raise ConfigError(f"{child.where}: {child.text!r}; accepted: {lowest:g} to {highest:g}")
        return value


def read_xml(path: Path, root: str) -> Element:
    """Return the root element of a file.

    Raises:
        ConfigError: it cannot be read, is not XML (cut off, for example), declares entities, is nested too deeply, or
            has another root.
    """
    open_: list[Element] = [Element(path, "", 1, 1, {})]
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ConfigError(f"{path}: row {parser.CurrentLineNumber}: declares a document type; accepted: none")

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(path, tag, parser.CurrentLineNumber, parser.CurrentColumnNumber + 1, attributes)
        if len(open_) > DEEPEST:
            raise ConfigError(f"{element.where}: nested too deeply")
        open_[-1].children.append(element)
        open_.append(element)

    def end(_: str) -> None:
        element = open_.pop()
        element.text = element.text.strip()

    def text(data: str) -> None:
        open_[-1].text += data

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(read_bytes(path), True)  # noqa: FBT003 - the last piece
    except expat.ExpatError as error:
        why = expat.errors.messages[error.code]
        raise ConfigError(f"{path}: row {error.lineno}, column {error.offset + 1}: not XML: {why}") from error
    found = open_[0].children[0]
    if found.tag != root:
        raise ConfigError(f"{found.where}; accepted: <{root}>")
    return found
