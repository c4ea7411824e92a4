"""What the pages show is true: code runs, files load, commands name verbs, options and files that exist."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import options_of_verbs, parse
from helpers.pages import CHECKOUT, PAGES, calls, command_lines, example, examples, fenced, indented
from helpers.policies import kept

import offload_rllib
from offload_rllib.config import EnvironmentConfig, PolicyConfig, load_environment, load_policy_config
from offload_rllib.config.loading import load_sweep, presets
from offload_rllib.config.sweep import SweepConfig
from offload_rllib.config.yaml_text import parse as parse_yaml
from offload_rllib.simulator.heuristics import DESCRIPTIONS
from offload_rllib.sweep.plan import check_plan, plan_sweep

DOCS = CHECKOUT / "docs"
LANGUAGES = {"python", "yaml", "text", "mermaid", "shell", "javascript"}
# Files that examples read: their first line names them, and another example imports or names them.
MODULE = re.compile(r"# (\w+)\.py\n")
# What takes more than a second or two: training, and pages to write.
SLOW = re.compile(r"build_algo|write_replay|\.check\(|load_comparison|http://")
# `test_other_libraries.py` runs them, where those libraries are installed; `test_served_page.py`, beside a service.
ELSEWHERE = re.compile(r"clients-\d+|serving_environments-\d+")
RUN = "runs/ether_12-ppo-1"
COMPARISON = "comparisons/ether_12-ppo-local-1"


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        for language, _ in fenced(page):
            assert language in LANGUAGES, f"{page.name}: a block of {language or 'no language'}"
        for block in indented(page):
            assert not re.match(r"import |from \w+ import|\w+: *[{\[]|\w+:$", block[0]), (
                f"{page.name}: code and YAML stand between fences, where tests find them: {block[0]}"
            )


def programs(*, slow: bool) -> list[Any]:
    """Return the examples in Python that are programs."""
    return [
        pytest.param(text, id=name)
        for name, text in examples("python")
        if not MODULE.match(text) and not ELSEWHERE.fullmatch(name) and bool(SLOW.search(text)) == slow
    ]


def run(text: str) -> dict[str, Any]:
    """Run a program, and return its names."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "example", "exec"), names)  # noqa: S102 - our own pages
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the pages assume that one works: beside a run."""
    monkeypatch.chdir(tmp_path)
    kept(tmp_path / RUN / "policy", offload_rllib.vector_env("ether_12"))
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", programs(slow=False))
def test_programs_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(text)
    printed = capsys.readouterr().out.splitlines()
    for code, said in re.findall(r"^(print\(.*?\))  # (.+)$", text, re.MULTILINE):
        assert said in printed, f"{code} does not print {said}"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("text", programs(slow=True))
def test_long_programs_run(folder: Path, text: str) -> None:
    if "load_comparison" in text:
        from offload_rllib.evaluation.evaluate import evaluate
        from offload_rllib.evaluation.players import make_contenders

        (folder / COMPARISON).mkdir(parents=True)
        evaluate(load_environment("manual_5"), make_contenders(["local", "random"]), episodes=3).save(
            folder / COMPARISON
        )
    if "http://" in text:
        text = text.replace("http://127.0.0.1:8000", "shortest_finish")  # `test_serving.py` starts a service
    run(text)


def modules() -> dict[str, str]:
    """Return the examples that are files, by name, of those that policy files name."""
    pages = {"my_module": "policies", "my_callbacks": "rollout", "my_metrics": "rollout", "my_ppo": "rollout"}
    return {name: example(DOCS / f"{page}.md", f"{name}.py") for name, page in pages.items()}


def test_examples_that_are_files_are_used_by_a_test() -> None:
    tested = "".join(path.read_text() for path in (CHECKOUT / "tests").glob("test_*.py"))
    for name, text in examples("python"):
        found = MODULE.match(text)
        assert not found or found[1] in modules() or f'"{found[1]}' in tested, name


@pytest.mark.usefixtures("ray_session")
def test_code_that_policy_files_name_is_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.environments import at_once
    from helpers.policies import policy_config

    from offload_rllib.training.rllib_config import algorithm_config

    monkeypatch.chdir(tmp_path)
    for name, text in modules().items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    plain = policy_config(env_steps=640).model_dump(by_alias=True, exclude_none=True)
    plain["network"]["module"] = "my_module:LinearModule"
    plain["algorithm"] |= {"implementation": "my_ppo:CautiousConfig", "batch_env_steps": 640}
    plain["training"] |= {"callbacks": ["my_callbacks:WorstEpisode"], "metrics": {"failed": "my_metrics:failed_share"}}
    algorithm = algorithm_config(load_environment(at_once()), load_policy_config(plain), cpus=2).build_algo()
    try:
        result = algorithm.train()
        assert type(algorithm.get_module("shared")).__name__ == "LinearModule"
    finally:
        algorithm.stop()
    sampled = result["env_runners"]
    assert 0 <= sampled["offload"]["dropped_share"] <= sampled["offload"]["failed"] <= 1
    assert sampled["worst_dropped_share"] >= sampled["offload"]["dropped_share"]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with changes; a part that is one of several kinds replaces the whole part."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        parts = isinstance(value, dict) and "kind" not in value and key not in ("load", "sharing")
        result[key] = merged(old, value) if parts and isinstance(old, dict) else value
    return result


@pytest.mark.parametrize("content", [pytest.param(parse_yaml(text), id=name) for name, text in examples("yaml")])
def test_examples_in_yaml_are_accepted(content: dict[str, Any]) -> None:
    if set(content) <= set(EnvironmentConfig.model_fields):
        whole = "topology" in content and "workload" in content
        environment = load_environment("ether_12").model_dump(by_alias=True, exclude_none=True)
        load_environment(content if whole else merged(environment, content))
    elif set(content) <= set(PolicyConfig.model_fields):
        load_policy_config(merged(load_policy_config("ppo").model_dump(by_alias=True, exclude_none=True), content))
    else:
        assert set(content) <= set(SweepConfig.model_fields), "neither of an environment, a policy nor a sweep"
        check_plan(plan_sweep(load_sweep(content)), cpus=2)


def known(name: str) -> bool:
    """Return whether an environment or a policy of that name exists, or the name is that of a file of the reader's."""
    rule, colon, _ = name.partition(":")
    if "/" in name or name.endswith(".yaml") or name in ("ENV", "RUN", "POLICY", "NAME", "their_run"):
        return True
    own = {found[1] for _, text in examples("python") if (found := MODULE.match(text))}
    own |= {path.stem for path in (CHECKOUT / "examples").rglob("*.py")}
    return rule in (
        own if colon and rule not in DESCRIPTIONS else {*DESCRIPTIONS, *presets("envs"), *presets("policies")}
    )


LINES = {
    f"{page.stem}: {' '.join(arguments)}": arguments
    for page in PAGES
    if page.name != "CHANGELOG.md"
    for line in command_lines(page)
    if (arguments := calls(line))
}


@pytest.mark.parametrize("arguments", LINES.values(), ids=LINES)
def test_lines_for_the_command_line_are_understood(arguments: list[str]) -> None:
    if len(arguments) == 1:
        return  # a verb that is spoken of
    options = parse(arguments)
    env, changes = options.get("env"), options.get("set_") or ()
    environments = (
        env.split(",") if isinstance(env, str) else [each for given in env or () for each in given.split(",")]
    )
    policies = options.get("policies") or options.get("policy") or ()
    policies = [str(name) for name in ([policies] if isinstance(policies, str) else policies)]
    for name in [*environments, *policies]:
        assert known(str(name)), name
    for name in environments:
        if name in presets("envs"):
            load_environment(name, changes)
    cloned = [f"training.imitate={options['imitate']}"] if options.get("imitate") else []
    if options.get("set_policy") or cloned:
        for name in [name for name in policies if name in presets("policies")] or ["ppo"]:
            load_policy_config(name, [*(options.get("set_policy") or ()), *cloned])
    if options.get("config") in presets("tune_configs"):
        load_sweep(options["config"], changes)


def test_options_that_pages_speak_of_exist() -> None:
    options = options_of_verbs()
    seen = 0
    for page in PAGES:
        for line in command_lines(page) if page.name != "CHANGELOG.md" else []:
            verb, *words = line.split() or [""]
            for word in words if verb in options else []:
                if word.startswith("--"):
                    seen += 1
                    assert word.partition("=")[0] in options[verb], f"{page.name}: {line}"
    assert seen >= 8


def test_lines_for_a_shell_name_what_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    extras = set(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    seen = set()
    for page, line in [
        (each.name, line) for each in PAGES if each.name != "CHANGELOG.md" for line in command_lines(each)
    ]:
        for target in re.findall(r"^make (?:\w+=\S+ )?([a-z-]+)", line):
            assert target in targets, f"{page}: make {target}"
            seen.add("make")
        for module in re.findall(r"\bpython -m (scripts\.[\w.]+)", line):
            path = CHECKOUT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page}: {module}"
            seen.add("module")
        for script in re.findall(r"(?:^| )((?:scripts|benchmarks)/[\w./-]+\.(?:py|sh|sbatch|yaml))\b", line):
            assert (CHECKOUT / script).is_file(), f"{page}: {script}"
            seen.add("script")
        for found in re.findall(r"pip install .*\[([\w,]+)\]", line):
            assert set(found.split(",")) <= extras, f"{page}: {found}"
            seen.add("extra")
    assert seen == {"make", "module", "script", "extra"}
