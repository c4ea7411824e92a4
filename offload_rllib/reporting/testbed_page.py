"""The report of a testbed: how far the simulator is from it, as tables, figures and one page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from offload_rllib.config.files import read_json, written_at_once
from offload_rllib.config.names import one_line
from offload_rllib.evaluation.interval_text import number
from offload_rllib.evaluation.results import POLICY
from offload_rllib.reporting.testbed_figures import TITLES, of_distributions, of_parts
from offload_rllib.testbed.analysis.differences import (
    DROPPED,
    OTHER,
    UNFINISHED,
    Differences,
    Verdict,
    differences_of,
)
from offload_rllib.testbed.analysis.log import LOAD, PARTS, ROUNDING_S, SIMULATOR, TESTBED, Table, read_logs

RECORD = "testbed.json"
PAGE = "testbed.html"
FILES = {"cases": "differences.csv", "parts": "parts.csv", "rankings": "rankings.csv", "pairs": "pairs.csv"}
CAUSE_TITLES = {
    "queue_full": "queue full",
    "expired": "expired",
    "lost": "lost on a link",
    "node_failed": "node failed",
}
# Notes of plays that are shown.
MOST_NOTES = 20
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 92rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.said td, .said th { text-align: left; white-space: normal }
.verdict { padding: .6rem .9rem; border-left: 6px solid #009e73; background: #f1f8f5 }
.verdict.missed { border-color: #d55e00; background: #fdf3ec }
img { max-width: 100%; height: auto }
@media (max-width: 50rem) { .scroll img { max-width: 50rem } }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px }
"""


@dataclass(frozen=True)
class Record:
    """What a testbed wrote of how it played: `testbed.json`, of which nothing must be there."""

    folder: str
    content: Mapping[str, Any]

    @property
    def plays(self) -> list[Mapping[str, Any]]:
        """One entry for each policy and episode."""
        plays = self.content.get("plays")
        return [play for play in plays if isinstance(play, Mapping)] if isinstance(plays, list) else []

    @property
    def reasons(self) -> list[str]:
        """Why plays do not count."""
        found = []
        for play in self.plays:
            if play.get("valid") is False:
                reasons = play.get("reasons")
                said = "; ".join(map(str, reasons)) if isinstance(reasons, list) and reasons else "no reason given"
                found.append(f"{play.get(POLICY)}, episode {play.get('episode')}: {said}")
        if self.content.get("valid") is False and not found:
            found.append(f"{self.folder}: the testbed says that it does not count")
        return found

    @property
    def notes(self) -> list[str]:
        """What else went wrong in plays, e.g. a node whose process ended."""
        found = []
        for play in self.plays:
            notes = play.get("notes")
            said = notes if isinstance(notes, list) else []
            found += [f"{play.get(POLICY)}, episode {play.get('episode')}: {note}" for note in said]
        return found


def read_records(paths: Sequence[Path]) -> list[Record]:
    """Return the records that lie beside logs; a log of a user's own hardware has none.

    Raises:
        ConfigError: a record cannot be read.
    """
    files = [(path if path.is_dir() else path.parent) / RECORD for path in paths]
    return [
        Record(str(file.parent), read_json(file, "the record of a testbed"))
        for file in dict.fromkeys(files)
        if file.exists()
    ]


def write_testbed_report(
    paths: Sequence[Path], out: Path, *, drop_s: float = 0.0
) -> tuple[Differences, list[Record], dict[str, Path]]:
    """Write tables and the page of a testbed beside the simulator.

    Args:
        paths: folders of testbeds, or Parquet files with the columns of `log.COLUMNS`.
        out: the folder for `testbed.html`, `differences.csv`, `parts.csv`, `rankings.csv` and `pairs.csv`.
        drop_s: the least score of a task that did not finish (`score.drop_s`).

    Returns:
        The differences, the records of the testbeds, and the files by what they are.

    Raises:
        ConfigError: a log or a record cannot be read, or there is nothing to compare.
    """
    tasks = read_logs(paths)
    records = read_records(paths)
    differences = differences_of(tasks, drop_s=drop_s)
    out.mkdir(parents=True, exist_ok=True)  # only now, when nothing is wrong with what was given
    written = {}
    for what, name in FILES.items():
        with written_at_once(out / name) as partial:
            getattr(differences, what).to_csv(partial, index=False)
        written[what] = out / name
    page = "\n".join(_page(tasks, differences, records))
    with written_at_once(out / PAGE) as partial:
        partial.write_text(page, encoding="utf-8")
    return differences, records, {"page": out / PAGE, **written}


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return a row for each target: its limit, the worst value and where, and in how many cases it is missed."""
    rows = []
    for verdict in verdicts:
        target = verdict.target
        unit = f" {target.unit}" if target.unit else ""
        limit = f"{'at least' if target.at_least else 'at most'} {number(target.limit * target.factor)}{unit}"
        rows.append(
            {
                "target": target.title,
                "accepted": limit,
                "worst": f"{number(verdict.worst * target.factor)}{unit}" if verdict.cases else "",
                "where": verdict.where,
                "missed": f"{verdict.missed} of {verdict.cases}" if verdict.cases else "",
                "verdict": {None: "not judged", True: "met", False: "missed"}[verdict.met],
            }
        )
    return pd.DataFrame(rows)


def cases_table(differences: Differences, load: float) -> pd.DataFrame:
    """Return the main figures of the policies at a load, both sides and their difference, as text."""
    rows = []
    for _, case in differences.cases[differences.cases[LOAD] == load].iterrows():
        row = {
            "policy": case[POLICY],
            "tasks": f"{case[f'tasks_{TESTBED}']:.0f}",
            "mean, s": _both(case, "mean"),
            "mean diff., %": _signed(case["mean_difference"], 100),
            "of the same tasks, %": _interval(case),
        }
        for name in ("p50", "p95"):
            row |= {f"{name}, s": _both(case, name), f"{name} diff., %": _signed(case[f"{name}_difference"], 100)}
        row["dropped, %"] = _both(case, DROPPED, 100)
        row["dropped diff., points"] = _signed(case[f"{DROPPED}_difference"], 100)
        row["distance"] = number(case["ks"])
        rows.append(row)
    return pd.DataFrame(rows)


def drops_table(differences: Differences, load: float) -> pd.DataFrame:
    """Return the shares of tasks that were dropped, by cause, or left unfinished: testbed / simulator, in %."""
    rows = []
    for _, case in differences.cases[differences.cases[LOAD] == load].iterrows():
        shown = {title: _both(case, cause, 100) for cause, title in CAUSE_TITLES.items()}
        rows.append({"policy": case[POLICY], **shown, "unfinished": _both(case, UNFINISHED, 100)})
    return pd.DataFrame(rows)


def parts_table(differences: Differences, load: float) -> pd.DataFrame:
    """Return testbed minus simulator of each part of the mean response time, in ms, and the largest part."""
    parts = differences.parts[differences.parts[LOAD] == load]
    rows = []
    for policy in dict.fromkeys(parts[POLICY]):
        of_policy = parts[parts[POLICY] == policy].set_index("part")["difference_s"]
        of_policy = of_policy.where(of_policy.abs() > ROUNDING_S, 0.0)
        shown = {TITLES[part]: _signed(of_policy[part], 1e3) if part in of_policy else "" for part in (*PARTS, OTHER)}
        largest = str(of_policy.abs().idxmax()) if of_policy.notna().any() else ""
        total = _signed(of_policy.sum(), 1e3)
        rows.append({"policy": policy, **shown, "all": total, "largest": TITLES.get(largest, "")})
    return pd.DataFrame(rows)


def ranking_table(differences: Differences) -> pd.DataFrame:
    """Return the order of the policies on both sides at each load, by mean score."""
    columns = {
        LOAD: "load",
        "order_testbed": "on the testbed, best first",
        "order_simulator": "in the simulator",
        "tau": "tau",
        "certain": "pairs certain on both",
        "opposite": "of them opposite",
    }
    table = differences.rankings[list(columns)].rename(columns=columns)
    return table.assign(tau=[number(tau) for tau in table["tau"]])


def plays_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return how each play of the testbeds went: whether it counts, lateness of timers, decisions, use of the CPUs."""
    rows = []
    for record in records:
        for play in record.plays:
            nodes = play.get("nodes")
            each = [node for node in nodes.values() if isinstance(node, Mapping)] if isinstance(nodes, Mapping) else []
            memory = [size for node in each if isinstance(size := node.get("resident_bytes"), int | float)]
            apart = [abs(offset) for node in each if isinstance(offset := node.get("clock_offset_s"), int | float)]
            rows.append(
                {
                    "policy": str(play.get(POLICY, "")),
                    "episode": str(play.get("episode", "")),
                    "counts": {"True": "yes", "False": "no"}.get(str(play.get("valid")), ""),
                    "timers late, p99, ms": _percentile(play, "timer_lateness_ms"),
                    "decision, p99, ms": _percentile(play, "decision_ms"),
                    "CPUs in use": _number(play.get("cpu_share")),
                    "memory of a node, at most, MB": number(max(memory) / 1e6) if memory else "",
                    "clock of a node off, at most, ms": number(max(apart) * 1e3) if apart else "",
                }
            )
    return pd.DataFrame(rows)


def conclusion(differences: Differences, records: Sequence[Record]) -> tuple[bool, str]:
    """Return whether all targets are met by a testbed that counts, and what to say of it in a few sentences."""
    verdicts = [verdict for verdict in differences.verdicts() if verdict.met is not None]
    missed = [verdict for verdict in verdicts if not verdict.met]
    said = (
        f"All {len(verdicts)} targets are met."
        if not missed
        else f"{len(missed)} of {len(verdicts)} targets {'is' if len(missed) == 1 else 'are'} missed: "
        f"{'; '.join(verdict.target.title for verdict in missed)}."
    )
    parts = differences.parts.dropna(subset=["difference_s"])
    if missed and len(parts):
        largest = parts.loc[parts["difference_s"].abs().idxmax()]
        said += (
            f" The largest difference of a part is {TITLES[largest['part']]}: "
            f"{_signed(largest['difference_s'], 1e3)} ms ({largest[POLICY]}, load {largest[LOAD]:g})."
        )
    reasons = [reason for record in records for reason in record.reasons]
    if reasons:
        said = f"The testbed does not count: {reasons[0]}. {said}"
    elif not records:
        said += f" There is no {RECORD}, so whether the machines kept up is not known."
    return not missed and not reasons, said


def _page(tasks: Table, differences: Differences, records: Sequence[Record]) -> Iterable[str]:
    names = list(dict.fromkeys(one_line(str(record.content.get("environment", ""))) for record in records))
    title = f"Testbed and simulator{': ' if any(names) else ''}{', '.join(filter(None, names))}"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    yield "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    yield "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    yield f"<meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
    yield f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
    good, said = conclusion(differences, records)
    yield f"<p class='verdict{'' if good else ' missed'}'>{html.escape(one_line(said))}</p>"
    yield "<p>The same tasks arrive on both sides. Differences are testbed minus simulator.</p>"
    yield _html(verdict_table(differences.verdicts()), "said")
    for note in differences.notes:
        yield f"<p>Note: {html.escape(one_line(note))}.</p>"
    if (differences.rankings["policies"] > 1).any():
        yield "<h2>Which policy is better</h2>"
        yield "<p>By mean score. A task that did not finish scores its deadline, or its age if that is more.</p>"
        yield _html(ranking_table(differences), "said")
    for load in dict.fromkeys(differences.cases[LOAD]):
        yield f"<h2>Load {load:g}</h2>"
        yield "<p>Testbed / simulator. Of the same tasks: the mean difference, with its 95 % interval, of tasks that "
        yield "finished on both sides. Distance: Kolmogorov's, of the response times.</p>"
        yield _html(cases_table(differences, load))
        yield "<h3>Drops by cause, %</h3>" + _html(drops_table(differences, load))
        yield _image(of_distributions(tasks, differences, load), f"Distributions of response times, load {load:g}")
        yield "<h3>Where the difference comes from, ms</h3>" + _html(parts_table(differences, load))
        yield _image(of_parts(differences, load), f"Parts of the mean response time, load {load:g}")
    plays = plays_table(records)
    if len(plays):
        yield "<h2>How the testbed went</h2>" + _html(plays)
        reasons = [reason for record in records for reason in record.reasons]
        yield from (f"<p>Does not count: {html.escape(one_line(reason))}.</p>" for reason in reasons)
        notes = [note for record in records for note in record.notes]
        yield from (f"<p>Note: {html.escape(one_line(note))}.</p>" for note in notes[:MOST_NOTES])
        if len(notes) > MOST_NOTES:
            yield f"<p>{len(notes) - MOST_NOTES} more notes are in {RECORD}.</p>"
    for record in records:
        about = {key: value for key, value in record.content.items() if key != "plays"}
        text = html.escape(yaml.safe_dump(about, sort_keys=False))
        yield f"<details><summary>{html.escape(one_line(record.folder))}</summary><pre>{text}</pre></details>"
    yield "</body></html>"


def _html(table: pd.DataFrame, kind: str = "") -> str:
    return f"<div class='scroll'>{table.to_html(index=False, border=0, na_rep='', classes=kind or None)}</div>"


def _image(figure: Figure, about: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    picture = base64.b64encode(file.getvalue()).decode()
    return f"<div class='scroll'><img alt='{html.escape(about)}' src='data:image/png;base64,{picture}'></div>"


def _both(case: Any, name: str, factor: float = 1.0) -> str:
    texts = [number(case[f"{name}_{side}"] * factor) or "none" for side in (TESTBED, SIMULATOR)]
    return " / ".join(texts)


def _interval(case: Any) -> str:
    mean, low, high = (number(case[f"paired_{end}"] * 100) for end in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low and high else mean


def _signed(value: float, factor: float) -> str:
    text = number(0.0 if abs(value) <= ROUNDING_S else value * factor)
    return f"+{text}" if value > 0 and text else text


def _percentile(play: Mapping[str, Any], key: str) -> str:
    values = play.get(key)
    return _number(values.get("p99")) if isinstance(values, Mapping) else ""


def _number(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) and np.isfinite(value) else ""
