"""YAML as text from anywhere: read safely, in a time that its length bounds, every fault with its place."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

# Python's and pydantic's recursion end below a depth of some hundreds.
LARGEST_DEPTH = 64
# What aliases stand for is walked again wherever they are: nine lists of nine aliases each are 10^8 values.
MOST_VALUES_OF_ALIASES = 100_000
SHOWN = 60
# The largest up to which every whole number is one of 64 bits with a decimal point, too.
LARGEST_WHOLE = 2**53


class Loader(yaml.SafeLoader):
    """Safe loading, numbers like ``2e6`` read as numbers (YAML 1.1 takes them for text), repeated keys rejected.

    Parts of parts are bounded in depth, what aliases repeat in size, and an invalid value is named.
    """

    def __init__(self, text: str) -> None:
        """Begin with a text."""
        super().__init__(text)
        self._open: list[list[int]] = []  # of each part that is being read: depth below it, values in it
        self._closed: dict[int, tuple[int, int]] = {}
        self._of_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a value, a part or an alias.

        Raises:
            ComposerError: the depth or the size is beyond the bounds, or a part contains itself.
        """
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        if len(self._open) > LARGEST_DEPTH:
            raise ComposerError(None, None, f"parts lie in parts more than {LARGEST_DEPTH} deep", mark)
        if is_alias:
            node = super().compose_node(parent, index)
            if id(node) not in self._closed:
                raise ComposerError(None, None, "the alias stands in the part that it names", mark)
            depth, values = self._closed[id(node)]
            self._of_aliases += values
        else:
            self._open.append([0, 1])
            node = super().compose_node(parent, index)
            depth, values = self._open.pop()
            self._closed[id(node)] = depth, values
        if self._of_aliases > MOST_VALUES_OF_ALIASES:
            raise ComposerError(None, None, f"aliases stand for more than {MOST_VALUES_OF_ALIASES:,} values", mark)
        if len(self._open) + depth > LARGEST_DEPTH:
            raise ComposerError(None, None, f"parts lie in parts more than {LARGEST_DEPTH} deep", mark)
        if self._open:
            self._open[-1][0] = max(self._open[-1][0], depth + 1)
            self._open[-1][1] += values
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        """Return the value of a node.

        Raises:
            ConstructorError: it has none: a date that is not in the calendar, a number of thousands of digits.
        """
        try:
            return super().construct_object(node, deep)
        # What PyYAML's constructors raise for texts that only look like what they construct.
        except (ValueError, OverflowError, AttributeError, IndexError, KeyError, TypeError) as error:
            value = str(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
            problem = f"{shown} is not a value of the kind {node.tag.rpartition(':')[2]}: {error}"
            raise ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - as above
        """Return a mapping whose keys are text, each given once."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise ConstructorError(None, None, f"key '{key}' given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return a number; one like ``1e5`` is whole, as people write whole numbers so, too."""
        number = self.construct_yaml_float(node)
        whole = "e" in str(node.value).lower() and number.is_integer() and abs(number) <= LARGEST_WHOLE
        return int(number) if whole else number


Loader.yaml_implicit_resolvers = {
    first: list(rules) for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_number)


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: it has none; the message says where and why.
    """
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a subclass of the safe loader
