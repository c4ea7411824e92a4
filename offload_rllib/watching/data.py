"""What the page shows of a run, from its files alone; the script in `page/` only draws it."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from datetime import datetime
from pathlib import Path
from typing import Any

from offload_rllib.config import ConfigError
from offload_rllib.config.files import read_text
from offload_rllib.config.loading import read_yaml
from offload_rllib.config.names import one_line
from offload_rllib.evaluation.interval_text import difference_text, number, with_half_width
from offload_rllib.evaluation.metrics import METRICS, SCORE, metric_of
from offload_rllib.evaluation.statistics import Interval
from offload_rllib.runs.status import read_status
from offload_rllib.runs.training_run import TUNE
from offload_rllib.simulator.heuristics import HEURISTICS
from offload_rllib.watching.logs import FIGURES, Log

TRIAL = "trial"
SUMMARY = Path("evaluation") / "summary.csv"
# The curves of a run, by the names of their figures.
CURVES = (SCORE, "dropped_share")
SHOWN_METRICS = (SCORE, "score_p95_s", "dropped_share")
USUAL_RULE = "shortest_finish"
MOST_RULES = 3  # as lines in the curve of the score

Json = dict[str, Any]


class Watched(ABC):
    """A folder that is watched: of a run, or of a sweep."""

    def __init__(self, path: Path) -> None:
        """Watch a folder."""
        self.path = path

    @abstractmethod
    def data(self) -> Json:
        """Return what the page shows now: texts, and the points of curves.

        Raises:
            ConfigError: a file of the folder cannot be read, or is not what it should be.
        """

    def update(self) -> Json:
        """Return `data`, or the message of what went wrong as ``error``: a page keeps on asking."""
        try:
            return self.data()
        except (ConfigError, OSError) as error:
            return {"error": one_line(str(error))}

    def described(self, file: str) -> str:
        """Return the description in a YAML file of the folder; empty without one."""
        path = self.path / file
        return one_line(str(read_yaml(path).get("description") or "")) if path.is_file() else ""


class WatchedRun(Watched):
    """A training run."""

    def __init__(self, path: Path) -> None:
        """Watch a run's folder."""
        super().__init__(path)
        self._log = Log(path / TUNE / TRIAL / "result.json", {name: (*FIGURES, name) for name in CURVES})

    def data(self) -> Json:
        """Return progress, curves, health and the evaluation of the run."""
        present = read_status(self.path)
        self._log.update()
        evaluation = evaluation_of(self.path)
        rules = [(row["policy"], row[SCORE].mean) for row in evaluation if not row["trained"]]
        best = sorted(rules, key=lambda rule: rule[1])[:MOST_RULES]
        saved = present.get("checkpoint")
        about = [self.described("environment.yaml"), self.described("policy.yaml")]
        return {
            "kind": "run",
            "name": self.path.resolve().name,
            "about": ". ".join(filter(None, about)),
            "state": present["state"],
            "health": present["health"],
            "progress": _progress(present),
            "facts": _facts(present),
            "notices": present.get("notices", []),
            "curves": [self._curve(name, best if name == SCORE else []) for name in CURVES],
            "table": _evaluation_table(evaluation),
            "replay": f"Replay of the latest checkpoint beside {rules_of(self.path)[0]}" if saved else "",
        }

    def _curve(self, name: str, levels: list[tuple[str, float]]) -> Json:
        x, y = self._log.curve(name)
        metric = metric_of(name)
        return {
            "title": f"{metric.label}: training episodes",
            "lines": [{"name": "in training", "x": x, "y": [value * metric.factor for value in y]}],
            "levels": [{"name": rule, "y": value * metric.factor} for rule, value in levels],
        }


def evaluation_of(run: Path) -> list[Json]:
    """Return the policies of the run's evaluation with their intervals; empty before there is one."""
    path = run / SUMMARY
    if not path.is_file():
        return []
    rows: dict[str, Json] = {}
    try:
        for line in csv.DictReader(io.StringIO(read_text(path))):
            row = rows.setdefault(
                line["policy"], {"policy": line["policy"], "episodes": line["episodes"], "trained": not rows}
            )
            row[line["metric"]] = _interval(line, "")
            if line["metric"] == SCORE and line["difference"]:
                row["difference"] = _interval(line, "difference_")
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{path}: not the summary of an evaluation ({error!r})") from error
    incomplete = [name for name, row in rows.items() if not set(SHOWN_METRICS) <= set(row)]
    if incomplete:
        raise ConfigError(f"{path}: not the summary of an evaluation: '{incomplete[0]}' lacks {SHOWN_METRICS}")
    reference = next(iter(rows), "")
    for row in rows.values():  # the same policy, greedy and sampled
        row["trained"] = row["policy"].partition(" (")[0] == reference
    return sorted(rows.values(), key=lambda row: row[SCORE].mean)


def rules_of(run: Path) -> list[str]:
    """Return the rules of a run's evaluation, best first; before there is one, the usual rule."""
    return [row["policy"] for row in evaluation_of(run) if row["policy"] in HEURISTICS] or [USUAL_RULE]


def _interval(line: dict[str, str], prefix: str) -> Interval:
    mean = line["difference"] if prefix else line["mean"]
    low, high = (float(line[f"{prefix}{end}"] or "nan") for end in ("low", "high"))
    return Interval(float(mean), low, high)


def _progress(present: Json) -> Json | None:
    if "env_steps" not in present:
        return None
    done, wanted, speed = present["env_steps"], present["env_steps_wanted"], present["env_steps_per_second"]
    left = f", {max(wanted - done, 0) / speed / 60:.0f} min left" if speed and done < wanted else ""
    return {
        "share": min(done / wanted, 1.0) if wanted else 1.0,
        "text": f"{done:,} of {wanted:,} environment steps" + (f"; {speed:,.0f} per second{left}" if speed else ""),
    }


def _facts(present: Json) -> list[list[str]]:
    if "env_steps" not in present:
        return []
    runners, saved = present["runners"], present["checkpoint"]
    facts = [
        ["iteration", f"{present['iteration']:,}, {present['iteration_seconds']:g} s"],
        ["latest result", _moment(present["time"])],
        ["process", f"{present['pid']} on {present['host']}"],
        [
            "checkpoint",
            f"at {saved['env_steps']:,} environment steps, {_moment(saved['time'])}" if saved else "none yet",
        ],
    ]
    if runners.get("all"):
        facts.insert(0, ["runners", ", ".join(f"{count} {what}" for what, count in runners.items())])
    figures = {name: value for name, value in present["figures"].items() if value is not None}
    known = [each for each in METRICS.values() if each.name in figures]
    facts += [[each.label, number(figures[each.name] * each.factor)] for each in known]
    return facts + [[name, number(value)] for name, value in figures.items() if name not in METRICS]


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")


def _evaluation_table(evaluation: list[Json]) -> Json | None:
    if not evaluation:
        return None
    metrics = [metric_of(name) for name in SHOWN_METRICS]
    rows = []
    for row in evaluation:
        cells = [with_half_width(row[metric.name], metric.factor) for metric in metrics]
        difference = row.get("difference")
        cells.append(difference_text(difference, sure=difference.excludes_zero) if difference else "")
        rows.append({"cells": [row["policy"], *cells], "strong": row["trained"]})
    return {
        "title": f"Evaluation on {evaluation[0]['episodes']} held-out episodes",
        "columns": ["policy", *(metric.label for metric in metrics), "score minus the trained policy's, s"],
        "rows": rows,
        "note": "Mean and half of its 95 % interval, the best first. A difference in parentheses is not certain.",
    }
