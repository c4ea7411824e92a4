"""`MODEL_CARD.md` of a run: what the policy is, where it comes from, how good it is, how to load it.

After the model cards of Mitchell et al. (arXiv 1810.03993), as far as a training run knows the answers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.names import as_markdown, plain_name
from offload_rllib.evaluation.interval_text import with_half_width
from offload_rllib.evaluation.statistics import Interval
from offload_rllib.policies.saved import POLICY_FOLDER, PolicyDescription, load_description
from offload_rllib.runs.training_run import RECORD, RunFolder

MODEL_CARD = "MODEL_CARD.md"
SUMMARY = Path("evaluation") / "summary.csv"
# Metric, title of its column, factor.
COLUMNS = (
    ("score_mean_s", "score, s", 1.0),
    ("score_p95_s", "p95 score, s", 1.0),
    ("response_mean_s", "response of finished, s", 1.0),
    ("dropped_share", "dropped, %", 100.0),
)
MOST_AGENTS_SHOWN = 12


def write_model_card(run: RunFolder) -> Path:
    """Write the card of a run from what its folder holds, over an older one; return its path.

    Raises:
        ConfigError: the run has no final policy, or one that cannot be read.
    """
    path = run.path / MODEL_CARD
    with written_at_once(path) as partial:
        partial.write_text("\n".join(_lines(run)) + "\n", encoding="utf-8")
    return path


def _lines(run: RunFolder) -> Iterator[str]:
    record: dict[str, Any] = read_json(run.path / RECORD, "the record of a run")
    environment, config = run.environment, run.policy_config
    policy = load_description(run.path / POLICY_FOLDER)
    yield f"# {as_markdown(run.name)}"
    yield ""
    yield (
        f"A task-offloading policy, trained with {policy.algorithm} by offload-rllib {record.get('version', '')}: each "
        "agent decides from what its node knows whether a task is processed there or sent to a neighbour."
    )
    yield from _section("Policy")
    yield from _rows(
        ("description", as_markdown(config.description)),
        ("algorithm", policy.algorithm),
        ("network", _network(policy)),
        ("sharing", _sharing(policy)),
        ("input", f"{policy.observation_size} observations, {policy.actions} actions and their mask, per agent"),
    )
    yield from _section("Training")
    yield from _rows(
        ("environment", as_markdown(environment.description)),
        ("fingerprint of the environment", f"`{policy.environment}`"),
        ("environment steps", f"{policy.env_steps:,}"),
        ("seed", str(config.training.seed)),
        ("credit", record.get("credit", "")),
        ("started from", _source(record.get("started_from"))),
        ("imitated", _imitated(record.get("imitated"))),
        ("selected", _selected(record.get("selected"))),
        ("wall-clock time", f"{record['seconds']:,.0f} s" if "seconds" in record else ""),
        ("begun", record.get("created", "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items())),
        ("Python, platform", f"{record.get('python', '')}, {record.get('platform', '')}"),
    )
    yield ""
    yield "Every key is in `environment.yaml` and `policy.yaml` beside this file."
    yield from _section("Results")
    yield from _results(run.path / SUMMARY)
    yield from _section("Use")
    yield "```python"
    yield "import offload_rllib"
    yield "from offload_rllib.envs.vector import held_out_keys"
    yield ""
    yield f"env = offload_rllib.vector_env({f'{run.name}/environment.yaml'!r})"
    yield f"policy = offload_rllib.load_policy({run.name!r}).on(env)"
    yield "env.reset(held_out_keys(0, env.num_envs))"
    deciding = ", agents=env.deciding" if environment.decisions.when == "arrival" else ""
    yield f"env.step(policy(env.observations, env.masks{deciding}))"
    yield "```"
    yield ""
    yield "Run it where this folder is. Weights are safetensors, the rest is JSON and YAML: loading runs no code of the"
    yield "folder. Where `environment.yaml` names Python code, `vector_env` refuses it unless given `trust=True`."
    yield "Neither ray nor a GPU is needed."
    yield from _section("Limits")
    yield "- Trained in simulation, on the environment above; elsewhere it may do worse than a heuristic."
    yield "- Observations are scaled by constants of the scenario, so equal numbers mean other seconds elsewhere."
    if policy.network.kind == "mlp":
        yield f"- Only for environments with {policy.observation_size} observations and {policy.actions} actions."
    yield "- One training seed: the spread over seeds is not in the intervals."


def _section(title: str) -> Iterator[str]:
    yield from ("", f"## {title}", "")


def _rows(*rows: tuple[str, str]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for name, value in rows:
        if value:
            yield f"| {name} | {value} |"


def _network(policy: PolicyDescription) -> str:
    hidden = " x ".join(map(str, policy.network.hidden)) or "no"
    dueling = ", dueling" if policy.dueling else ""
    memory = f", memory of {policy.network.memory} units" if policy.network.memory else ""
    return f"{policy.network.kind}, {hidden} hidden units, {policy.network.activation}{dueling}{memory}"


def _source(started_from: dict[str, Any] | None) -> str:
    """Return where the first weights came from; nothing if they were random."""
    if started_from is None:
        return ""
    critic = f"; critic: {started_from['critic']}" if "critic" in started_from else ""
    return (
        f"`{plain_name(started_from['folder'])}`, version `{started_from['version']}`: {started_from['algorithm']}, "
        f"{started_from['env_steps']:,} environment steps on `{started_from['environment']}`{critic}"
    )


def _imitated(imitated: dict[str, Any] | None) -> str:
    """Return which rule or file was cloned, and how well; nothing if none was."""
    if imitated is None:
        return ""
    teacher = plain_name(imitated.get("rule") or imitated["file"])
    agreement = f"agrees with it in {imitated['agreement']:.1%} of held-out decisions"
    return f"`{teacher}`, {imitated['decisions']:,} decisions; {agreement}"


def _selected(selected: dict[str, Any] | None) -> str:
    """Return which policy of the run stayed, with all scores; nothing if that was the last without a choice."""
    if selected is None:
        return ""
    scores = ", ".join(f"{name} {score:.3g} s" for name, score in selected["scores_s"].items())
    return f"{selected['policy']}; on training episodes: {scores}"


def _sharing(policy: PolicyDescription) -> str:
    names = list(policy.serves)
    shown = ", ".join(f"`{plain_name(name)}`" for name in names[:MOST_AGENTS_SHOWN])
    more = f", ... ({len(names)} in all)" if len(names) > MOST_AGENTS_SHOWN else ""
    return f"{policy.sharing}: {shown}{more}, for {len(policy.agents)} agents"


def _results(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield "Not evaluated yet: `offload-rllib evaluate` compares it with heuristics on held-out episodes."
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = {(row["policy"], row["metric"]): row for row in rows}
    yield (
        f"Mean ± the larger half of the 95 % interval over {rows[0]['episodes']} held-out episodes "
        f"(seed {rows[0]['seed']}), the "
        "same for all policies. Score: response time; a dropped or unfinished task counts with its deadline or price."
    )
    yield ""
    yield "| policy | " + " | ".join(title for _, title, _ in COLUMNS) + " |"
    yield "|---" + "|---:" * len(COLUMNS) + "|"
    policies = sorted(
        dict.fromkeys(row["policy"] for row in rows), key=lambda name: float(figures[name, "score_mean_s"]["mean"])
    )
    for policy in policies:
        cells = []
        for metric, _, factor in COLUMNS:
            row = figures[policy, metric]
            mean, low, high = (float(row[end] or "nan") for end in ("mean", "low", "high"))
            cells.append(with_half_width(Interval(mean, low, high), factor))
        yield f"| {as_markdown(policy)} | " + " | ".join(cells) + " |"
