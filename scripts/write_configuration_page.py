"""Write docs/configuration.md from the schema of environment, policy and sweep files.

Usage: python scripts/write_configuration_page.py [--check]

Keys, ranges, defaults and meanings come from the pydantic models and the docstrings of their attributes; units come
from the names of the keys. With --check nothing is written, and the exit code is 1 if the page on disk differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload_rllib.config import EnvironmentConfig, PolicyConfig
from offload_rllib.config.base import FUNCTION_PATH
from offload_rllib.config.sweep import SweepConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """\
<!-- Written by scripts/write_configuration_page.py from the schema. Do not edit: change the schema and run it. -->

# Configuration

An environment is a YAML file like those in `envs/`; a policy set is a YAML file like those in `policies/`; a sweep is a
YAML file like those in `tune_configs/`. Wherever a command or a function takes one, it takes a preset's name (the
file's name without `.yaml`) or a path ending in `.yaml` or `.yml`. Presets are looked up in the checkout first, then in
the installed package.

- Unknown keys, repeated keys and values of the wrong type are errors. The message names the file, the key, what was
  given and what is accepted.
- Units are SI and are in the names: `_s` seconds, `_bits` bits, `_bps` bits per second, `_m` metres, `_hz` hertz.
- Numbers may be written as `2e6`, whole numbers (`integer` below) only as `2000000`.
- Numbers that are not whole are 0 or between 1e-30 and 1e30 in size, where a key does not say less.
- Names of data files (`path`, `nodes_path`, `links_path`) are relative to the YAML file that holds them; in `--set` and
  in a mapping, to the working folder. `preset:NAME` is a file beside the environment presets. Loading makes them
  absolute, and refuses a file that is not there. Text files may be compressed with gzip, and begin with a byte order
  mark. What is in a file is part of the environment's fingerprint, where it lies is not.
- Any key can be changed for one run: `--set KEY=VALUE` changes the environment, `--set-policy KEY=VALUE` the policy.
  `KEY` is the path with dots (a number indexes a list), `VALUE` is YAML, for instance
  `--set workload.load.rho=1.0` or `--set 'topology.rpi3_per_cluster=[4, 4]'`. In Python the same texts go into
  `overrides=`.
- A default is what holds if the key is absent; the presets set some keys to other values.

Rules across keys:

- `warmup_s + drain_s` is less than `horizon_s`.
- `decisions.when: arrival` has no `interval_s`, `tasks_per_decision` above 1, `offer: newest` or `tick_s`.
- With `decisions.when: interval`, `horizon_s` is a multiple of `decisions.interval_s`.
- `workload.load` holds either `rho` or `tasks_per_second_per_client`; it is left out with a recording, and may be with
  a table of rates.
- `workload.jobs` is left out where `workload.arrivals.columns.work` names a column, and required otherwise.
- `workload.arrivals.kind: job_times` needs `workload.jobs.kind: alibaba`.
- `queue: edf` and `cloud.queue: edf` need deadlines.
- `tasks_per_core` needs `service: shared`. Without it no task waits there: `queue` is `fifo`, and `decisions.offer` is
  `arrival`. The same holds for `cloud`.
- `score.drop_s` must be given where tasks can be dropped that could otherwise finish late. These are tasks without a
  deadline, or any with `deadlines.expiry` `queued` or `never`. They can be dropped where a node has a `queue_capacity`
  or `queue_capacity_bits`, links a `loss_probability`, nodes `failures`, or `expiry` is `queued`. The value is at least
  `horizon_s`.
- `score.weights` names types of `workload.jobs`, or of the column `workload.arrivals.columns.type`.
- `deadlines.grace_s` above 0 needs `deadlines.expiry: queued`, and that needs deadlines.
- `reward.name: peersimgym` needs `decisions.tasks_per_decision: 1`, and so do training and `decisions.offer: newest`.
- `reward.shaping.gamma` is the `algorithm.gamma` of the policies that are trained.
- `agents.others` needs `agents.types` or `agents.nodes`; `agents: all` stands for neither.
- APPO needs at least one of `training.runners`, and its `batch_env_steps` is a multiple of `training.envs_per_runner` x
  `algorithm.fragment_steps`.
- `algorithm.batch_env_steps` (DDQN: `algorithm.sample_env_steps`) is a multiple of `training.runners` (at least 1) x
  `training.envs_per_runner`.
- DDQN's `learning_starts` is at most half of its `replay_capacity`.
- `sharing` may be a bare word (its `kind`), or hold `mapping` alone; names of policies are of `a-z`, `0-9` and `_`.
- `policies` names policies that `sharing` makes, and in them keys that `algorithm` has.
"""

UNITS = {
    "instructions": "instructions",
    "instructions_per_second": "instructions/s",
    "reference_instructions_per_second": "instructions/s",
    "instructions_per_second_per_millicore": "instructions/s",
    "tasks_per_second_per_client": "tasks/s",
    "nuc_millicores": "1/1000 core",
    "memory_per_task_bytes": "byte/task",
    "megabytes_per_memory_unit": "MB",
    "queue_capacity": "tasks",
    "mean_degree": "links",
    "neighbours": "links",
    "bridges": "links",
    "links_per_node": "links",
    "uplinks": "links",
    "peers": "links",
    "bits_in": "bit",
    "bits_out": "bit",
    "constant": "that of the key",
    "exponential": "that of the key",
    "uniform": "that of the key",
    "lognormal": "that of the key",
    "propagation_m_per_s": "m/s",
    "transmit_j_per_bit": "J/bit",
    "cost": "units of energy",
    "per_episode": "that of the key",
    "mean": "that of the key",
    "low": "that of the key",
    "high": "that of the key",
    "values": "that of the key",
    "max_hops": "hops",
    "vms": "machines",
    "tasks_per_decision": "tasks",
    "tasks_per_core": "tasks",
    "hidden": "units",
    "env_steps": "environment steps",
    "batch_env_steps": "environment steps",
    "minibatch_steps": "agent steps",
    "checkpoint_every": "iterations",
    "cpus_per_runner": "CPUs",
    "sample_attempts": "attempts",
    "n_step": "choices",
    "batch_transitions": "transitions",
    "replay_capacity": "choices",
    "learning_starts": "transitions",
    "target_update_every": "gradient steps",
    "epsilon_decay_env_steps": "environment steps",
    "sample_env_steps": "environment steps",
}
SUFFIX_UNITS = {
    "_dbm_per_hz": "dBm/Hz",
    "_dbm": "dBm",
    "_hz": "Hz",
    "_deg": "degree",
    "_bps": "bit/s",
    "_bits": "bit",
    "_db": "dB",
    "_w": "W",
    "_s": "s",
    "_m": "m",
}
NO_UNIT = "-"

# Parts that several keys share are described once, at the end: model, heading.
SHARED = {
    "Distribution": "Distribution",
    "Duration": "Duration",
    "PerEpisode": "Range",
    "Column": "Column",
    "DeviceClass": "Device class",
}

Node = dict[str, Any]


class MissingMeaningError(LookupError):
    """A key's attribute has no docstring in the schema."""


def unit_of(key: str) -> str:
    """Return the unit that a key's name implies."""
    if key in UNITS:
        return UNITS[key]
    return next((unit for suffix, unit in SUFFIX_UNITS.items() if key.endswith(suffix)), NO_UNIT)


def number(value: float) -> str:
    """Return a number as a person would write it in YAML."""
    if isinstance(value, int):
        return str(value)  # a key that takes whole numbers refuses 2e5
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:g}"


def text_of(value: Any) -> str:
    """Return a default as YAML."""
    if isinstance(value, dict):
        given = {key: item for key, item in value.items() if item is not None}
        if list(given) == ["constant"]:
            return text_of(given["constant"])
        return "{" + ", ".join(f"{key}: {text_of(item)}" for key, item in given.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return number(value) if isinstance(value, int | float) else str(value) or '""'


def anchor(title: str) -> str:
    """Return the anchor that Markdown renderers give a heading."""
    kept = (character for character in title.lower() if character.isalnum() or character in " -_")
    return "".join(kept).replace(" ", "-")


class Page:
    """The tables of one root model."""

    def __init__(self, model: type[EnvironmentConfig | PolicyConfig | SweepConfig]) -> None:
        """Read a model's schema."""
        self.schema: Node = model.model_json_schema(by_alias=True)
        self.root = model.__name__

    def members(self, node: Node) -> list[str]:
        """Return the names of the models that a key may hold: none, one, or those of a union."""
        if "$ref" in node:
            return [node["$ref"].rsplit("/", 1)[-1]]
        options = [node.get("items"), self.values_of(node), *node.get("oneOf", []), *node.get("anyOf", [])]
        return [name for option in options if option for name in self.members(option)]

    @staticmethod
    def values_of(node: Node) -> Node:
        """Return the schema of the values of a mapping whose keys are free; empty for others."""
        values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        return next((value for value in values if isinstance(value, dict)), {})

    def accepted(self, node: Node, path: str) -> str:
        """Return what a key accepts."""
        options = node.get("anyOf") or ([] if "discriminator" in node else node.get("oneOf"))
        if options:
            return " or ".join(self.accepted(option, path) for option in options)
        members = self.members(node)
        if members:
            links = [self.link(name, path) for name in members]
            if self.values_of(node):
                return f"mapping from names to {links[0]}"
            return f"list of {links[0]}{self.count(node)}" if "items" in node else " or ".join(links)
        if "const" in node or "enum" in node:
            return ", ".join(f"`{text_of(value)}`" for value in node.get("enum", [node.get("const")]))
        return self.plain(node, path)

    def link(self, name: str, path: str) -> str:
        """Return a link to a model's table."""
        if name in SHARED:
            return f"[{SHARED[name].lower()}](#{anchor(SHARED[name])})"
        return f"[{self.label(name)}](#{anchor(self.title(name, path))})"

    def plain(self, node: Node, path: str) -> str:
        """Return what a key accepts that holds numbers, text, a truth value, nothing, or a list of those."""
        kind = node.get("type", "anything")
        if kind == "array" and "prefixItems" in node:
            return "[" + ", ".join(self.accepted(item, path) for item in node["prefixItems"]) + "]"
        if kind == "array":
            return f"list of {self.accepted(node['items'], path)}{self.count(node)}"
        if kind in ("number", "integer"):
            return self.span(node, kind)
        if kind == "object":
            values = self.values_of(node)
            return f"mapping from names to {self.accepted(values, path)}" if values else "mapping"
        if kind == "string":
            return self.text(node)
        return {"boolean": "`true`, `false`", "null": "`null`", "anything": "any value"}[kind]

    @staticmethod
    def text(node: Node) -> str:
        """Return what a text must be."""
        if node.get("pattern") == FUNCTION_PATH:
            return "`package.module:function`"
        if "pattern" in node:
            return f"text matching `{node['pattern']}`"
        return "text, not empty" if node.get("minLength") else "text"

    @staticmethod
    def span(node: Node, kind: str) -> str:
        """Return the range of a number."""
        bounds = []
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤")):
            if key in node:
                bounds.append(f"{sign} {number(node[key])}")
        even = f", a multiple of {node['multipleOf']}" if "multipleOf" in node else ""
        return " ".join([kind, " and ".join(bounds)]).strip() + even

    @staticmethod
    def count(node: Node) -> str:
        """Return how many items a list may have."""
        low, high = node.get("minItems"), node.get("maxItems")
        if high is not None:
            return f"; {low or 0} to {high} of them"
        return f"; at least {low}" if low else ""

    def definition(self, name: str) -> Node:
        """Return the schema of a model by name."""
        return self.schema if name == self.root else self.schema["$defs"][name]

    def label(self, name: str) -> str:
        """Return the constant that chooses a member of a union, or "mapping"."""
        properties = self.definition(name)["properties"]
        chosen = (properties.get(key, {}).get("const") for key in ("kind", "name"))
        return next((text_of(value) for value in chosen if value is not None), "mapping")

    def title(self, name: str, path: str) -> str:
        """Return the heading of a model's table."""
        label = self.label(name)
        return f"{path}: {label}" if label != "mapping" else path

    def meaning(self, model: str, key: str, node: Node) -> str:
        """Return what a key means.

        Raises:
            MissingMeaningError: the schema has no words for it.
        """
        text = node.get("description")
        if text is None and "$ref" in node:
            # pydantic leaves out an attribute's docstring that equals that of its model.
            text = self.definition(node["$ref"].rsplit("/", 1)[-1]).get("description")
        if text is None:
            raise MissingMeaningError(f"{model}.{key}: give the attribute a docstring")
        return " ".join(text.split())

    def table(self, name: str, path: str) -> Iterator[str]:
        """Yield the lines of a model's table."""
        definition = self.definition(name)
        required = definition.get("required", [])
        yield "| key | unit | accepted | default | meaning |"
        yield "|---|---|---|---|---|"
        # What chooses the kind comes first, also where other keys are inherited.
        for key, node in sorted(definition["properties"].items(), key=lambda item: item[0] != "kind"):
            here = f"{path}.{key}" if path else key
            parts = [member for member in self.members(node) if member not in SHARED]
            default = f"`{text_of(node['default'])}`" if "default" in node else "-"
            if parts and isinstance(node.get("default"), dict):
                default = "its own defaults"
            cells = (
                f"`{key}`",
                unit_of(key),
                self.accepted(node, here),
                "required" if key in required else default,
                self.meaning(name, key, node),
            )
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def sections(self, name: str, path: str, level: int) -> Iterator[str]:
        """Yield the lines of a model's table and of the tables of its parts."""
        yield from self.table(name, path)
        for key, node in self.definition(name)["properties"].items():
            here = f"{path}.{key}" if path else key
            for member in self.members(node):
                if member in SHARED:
                    continue
                yield from ("", f"{'#' * level} {self.title(member, here)}", "")
                yield from (self.definition(member)["description"], "")
                yield from self.sections(member, here, level)


def page() -> str:
    """Return the whole page.

    Raises:
        MissingMeaningError: see `Page.meaning`.
    """
    environment, policy = Page(EnvironmentConfig), Page(PolicyConfig)
    lines = [HEAD, "## Environment files", ""]
    lines += environment.sections(environment.root, "", 3)
    for name, title in SHARED.items():
        lines += ["", f"### {title}", "", environment.definition(name)["description"], ""]
        lines += environment.sections(name, title.lower(), 4)
    lines += ["", "## Policy files", ""]
    lines += policy.sections(policy.root, "", 3)
    sweep = Page(SweepConfig)
    lines += ["", "## Sweep files", ""]
    lines += sweep.sections(sweep.root, "", 3)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it with the one on disk; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page on disk differs")
    arguments = parser.parse_args()
    try:
        written = page()
    except MissingMeaningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.check:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == written:
            return 0
        print(f"{PAGE}: differs from the schema; run: python scripts/write_configuration_page.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(written, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
