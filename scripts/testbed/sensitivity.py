"""How far an episode moves in the simulator when its events come a little late, as they do on a testbed.

`comparison` writes these tables to its page. The workload of an episode is replayed as a recording, in which single
tasks can be created later. Messages are made later by a jitter of the links.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from offload_rllib.config import EnvironmentConfig, load_environment
from offload_rllib.envs.arrival import ArrivalEnv
from offload_rllib.envs.episode_keys import held_out_keys
from offload_rllib.evaluation.results import EPISODE
from offload_rllib.evaluation.task_log import OUTCOMES
from offload_rllib.scenario import BuiltScenario, build_scenario
from offload_rllib.simulator.types import FINISHED, OPEN, Array
from offload_rllib.testbed.analysis.log import DONE, SIDE, SIMULATOR, TASK, TESTBED
from offload_rllib.testbed.recorded import arrivals_of

# A pandas table, of which the type checker knows no more.
Table = Any

SEEDS = 50
LOW, HIGH = 0.05, 0.95
FIGURES = ("mean", "p95", "dropped")
# So far outside of the simulator's spread a figure is still called inside: a tenth of the target for differences.
MARGINS = {"mean": 0.005, "p95": 0.01, "dropped": 0.001}
# Tasks that are made late together, at most, to find why the two sides differ.
MOST_LATE = 3
OTHER_LINKS_S = 0.5
# A task is made late by so many mean delays at most: what is more has come from other tasks.
MOST_LATE_MEANS = 20.0
# A task may be decided after tasks that were created later: so many are tried beyond the first that went another way.
LATER_TASKS = 25
COLUMNS = {"time": "time_s", "origin": "origin", "work": "work", "bits_in": "bits_in", "bits_out": "bits_out"}


@dataclass(frozen=True)
class Lateness:
    """By how much events of a testbed came later than in the simulator, on average, in seconds of the scenario.

    Attributes:
        task_s: from the arrival of a task at a node, as it was due, to its decision.
        message_s: the arrival of a task or a result over a link.
    """

    task_s: float
    message_s: float


def both_sides(tasks: Table) -> tuple[Table, Table]:
    """Return the rows of the testbed and those of the simulator, by number of the task; one policy and episode."""
    testbed, simulator = (tasks[tasks[SIDE] == side].set_index(TASK).sort_index() for side in (TESTBED, SIMULATOR))
    return testbed, simulator


def same_way(testbed: Table, simulator: Table) -> Array:
    """Return [n] which tasks came to the same node over the same links on both sides.

    Logs do not name the links: a transfer that takes `OTHER_LINKS_S` more or less went over others.
    """
    same = (testbed["node"].astype(str) == simulator["node"].astype(str)) & (testbed["hops"] == simulator["hops"])
    return (same & ((testbed["transfer_s"] - simulator["transfer_s"]).abs() < OTHER_LINKS_S)).to_numpy()


def lateness_of(testbed: Table, simulator: Table) -> Lateness:
    """Return how late events came, over the tasks that finished on both sides after the same way."""
    kept = same_way(testbed, simulator)
    for side in (testbed, simulator):
        kept = kept & (side["outcome"] == DONE).to_numpy()
    testbed, simulator = testbed[kept], simulator[kept]
    hops = testbed["hops"].to_numpy()
    late_s = sum((testbed[part] - simulator[part]).sum() for part in ("transfer_s", "return_s"))
    return Lateness(
        float(testbed["holding_s"].sum()) / max(int((hops + 1).sum()), 1), float(late_s) / max(2 * int(hops.sum()), 1)
    )


class Episode:
    """An episode in the simulator, whose tasks and messages can come later than they would.

    Attributes:
        arriving: [n] ARRIVAL_ROW, its tasks as they are.
        names: of the nodes.
    """

    def __init__(self, config: EnvironmentConfig, key: int) -> None:
        """Take the environment, and the key of the episode."""
        scenario = build_scenario(config)
        self.arriving = arrivals_of(ArrivalEnv(scenario, 1, log=True), key)
        self.names = np.array([node.name for node in scenario.network.nodes])
        self._config = config
        self._key = np.array([key], np.uint64)
        self._counts_from_s, self._counts_until_s = (
            float(scenario.arrays.settings[0][name]) for name in ("score_from_s", "score_until_s")
        )
        self._built: dict[float, BuiltScenario] = {}

    def _replaying(self, jitter_s: float) -> BuiltScenario:
        """Return the environment with the tasks as a recording, and links with a jitter of this mean."""
        if jitter_s in self._built:
            return self._built[jitter_s]
        rows = self.arriving
        table = {name: rows[name] for name in ("work", "bits_in", "bits_out")}
        table |= {
            "time_s": rows["created_s"],
            "origin": self.names[rows["origin"]],
            "deadline_s": rows["deadline_s"] - rows["created_s"],
        }
        content = self._config.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if jitter_s:
            content["links"] |= {"jitter_s": {"exponential": jitter_s}}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arrivals.parquet"
            pd.DataFrame(table).to_parquet(path)
            arrivals = {"kind": "replay", "path": str(path), "columns": COLUMNS | {"deadline": "deadline_s"}}
            content["workload"] = {"arrivals": arrivals}
            self._built[jitter_s] = build_scenario(load_environment(content))
        return self._built[jitter_s]

    def play(self, rule: str, late_s: Array | float = 0.0, jitter_s: float = 0.0, seed: int = 0) -> Array:
        """Play the episode.

        Args:
            rule: a heuristic that does not depend on the distribution of the work.
            late_s: [n] by how much each task is created later.
            jitter_s: mean of what each message takes longer, drawn from an exponential distribution.
            seed: of these draws.

        Returns:
            [n] LOG, in the order of `arriving`.
        """
        built, rows = self._replaying(jitter_s), self.arriving
        created_s = rows["created_s"] + late_s
        order = np.lexsort((created_s, rows["origin"]))
        recording, law = built.arrays.recording.copy(), built.arrays.link_law.copy()
        recording["time_s"] = created_s[order]
        recording["deadline_s"] = (rows["deadline_s"] - rows["created_s"])[order]
        for name in ("work", "bits_in", "bits_out"):
            recording[name] = rows[name][order]
        law["name_hash"] ^= np.random.default_rng(seed).integers(0, 2**63, len(law), np.uint64)  # addresses the draws
        arrays = built.arrays._replace(recording=recording, link_law=law)
        env = ArrivalEnv(dataclasses.replace(built, arrays=arrays), 1, log=True)
        env.reset(self._key)
        env.play(rule)
        place = np.empty(len(rows), np.int64)
        place[np.argsort(created_s, kind="stable")] = np.arange(len(rows))
        return env.task_log(0)[place]

    def play_late(self, rule: str, lateness: Lateness, seed: int) -> Array:
        """Play the episode with tasks and messages that are late, each by a draw of its own; returns as `play`."""
        late_s = np.random.default_rng([seed, 1]).exponential(lateness.task_s, len(self.arriving))
        return self.play(rule, late_s, lateness.message_s, seed)

    def counting(self, log: Array) -> Array:
        """Return the rows of the tasks that count in the figures."""
        created_s = self.arriving["created_s"]
        return log[(created_s >= self._counts_from_s) & (created_s < self._counts_until_s)]


def figures_of(logs: Sequence[Array]) -> dict[str, float]:
    """Return mean and 95th percentile of the response in seconds, and the share of dropped tasks, of logs together."""
    log = np.concatenate(logs)
    response_s = (log["ended_s"] - log["created_s"])[log["outcome"] == FINISHED]
    dropped = (log["outcome"] != FINISHED) & (log["outcome"] != OPEN)
    return dict(zip(FIGURES, (response_s.mean(), np.quantile(response_s, 0.95), dropped.mean()), strict=True))


def spread_of(episodes: Sequence[Episode], rule: str, lateness: Lateness, seeds: int = SEEDS) -> Table:
    """Return the figures of episodes together whose events are late: a row for each seed, columns `FIGURES`."""
    return pd.DataFrame(
        [
            figures_of([episode.counting(episode.play_late(rule, lateness, seed)) for episode in episodes])
            for seed in range(seeds)
        ]
    )


def is_inside(name: str, value: float, spread: Table) -> bool:
    """Return whether a figure is between the 5th and the 95th percentile of a spread, or less than a margin outside."""
    low, high = spread[name].quantile([LOW, HIGH])
    margin = MARGINS[name] if name == "dropped" else MARGINS[name] * value
    return low - margin <= value <= high + margin


@dataclass(frozen=True)
class Cause:
    """Tasks that are late in the simulator, and by that let it follow the testbed.

    Attributes:
        tasks: of the episode.
        other_way: how many went another way on the testbed than in the simulator.
        late_s: by task, by how much it was created later, in seconds.
        other_way_then: how many still go another way.
    """

    tasks: int
    other_way: int
    late_s: dict[int, float]
    other_way_then: int


def cause_of(episode: Episode, rule: str, testbed: Table, simulator: Table) -> Cause:
    """Return which tasks, as late in the simulator as they were on the testbed, let later tasks go the testbed's way.

    Tasks are tried one by one. The one is kept with which both sides agree longest, then another one, up to
    `MOST_LATE`. A task is as late as its last arrival at a node was on the testbed.

    Args:
        episode: in the simulator.
        rule: that decided.
        testbed: the tasks of the episode on the testbed.
        simulator: and in the simulator.
    """
    mean = lateness_of(testbed, simulator)

    def agreeing(late_s: Array) -> Array:
        log = episode.play(rule, late_s)
        way = {"node": episode.names[log["node"]], "hops": log["hops"], "transfer_s": log["transfer_s"]}
        return same_way(testbed, pd.DataFrame(way, index=testbed.index))

    same = same_way(testbed, simulator) & (testbed["outcome"] == simulator["outcome"]).to_numpy()
    arrived_s = [side["holding_s"] + side["transfer_s"] for side in (testbed, simulator)]
    later_s = np.where(same, arrived_s[0] - arrived_s[1], mean.task_s + mean.message_s)
    measured_s = np.clip(later_s, 0.0, MOST_LATE_MEANS * (mean.task_s + mean.message_s))
    late_s, found = np.zeros(len(testbed)), dict[int, float]()
    agree = agreeing(late_s)
    other_way = int((~agree).sum())
    while not agree.all() and len(found) < MOST_LATE:
        first = int(np.argmin(agree))
        tried = {}
        for task in range(min(first + LATER_TASKS, len(testbed))):
            if task not in found:
                trial_s = late_s.copy()
                trial_s[task] = measured_s[task]
                tried[task] = agreeing(trial_s)
        best = max(tried, key=lambda task: (tried[task].all(), int(np.argmin(tried[task])), tried[task].sum(), -task))
        if not tried[best].all() and int(np.argmin(tried[best])) <= first:
            break
        late_s[best] = found[best] = float(measured_s[best])
        agree = tried[best]
    return Cause(len(testbed), other_way, found, int((~agree).sum()))


@dataclass(frozen=True)
class Played:
    """The plays of one rule at one load: of each episode both sides, and the episode itself."""

    rho: float
    rule: str
    episodes: tuple[Episode, ...]
    testbed: tuple[Table, ...]
    simulator: tuple[Table, ...]

    @property
    def lateness(self) -> Lateness:
        """How late events came, over all episodes."""
        return lateness_of(pd.concat(self.testbed), pd.concat(self.simulator))

    def cause(self) -> tuple[int, Cause]:
        """Return the number of the episode in which most tasks went another way, and why they did."""
        other_way = [
            int((~same_way(testbed, simulator)).sum())
            for testbed, simulator in zip(self.testbed, self.simulator, strict=True)
        ]
        worst = int(np.argmax(other_way))
        return worst, cause_of(self.episodes[worst], self.rule, self.testbed[worst], self.simulator[worst])


def read_played(env: str, rho: float, rule: str, log: Path, episodes: dict[tuple[float, int], Episode]) -> Played:
    """Read the plays of a rule from its log; episodes are taken from, and added to, those that there are."""
    tasks = pd.read_parquet(log)
    numbers = sorted(tasks[EPISODE].unique().tolist())
    keys = held_out_keys(0, len(numbers))
    for number in numbers:
        if (rho, number) not in episodes:
            config = load_environment(env, [f"workload.load.rho={rho:g}"])
            episodes[rho, number] = Episode(config, int(keys[number]))
    sides = [both_sides(tasks[tasks[EPISODE] == number]) for number in numbers]
    return Played(
        rho,
        rule,
        tuple(episodes[rho, number] for number in numbers),
        tuple(testbed for testbed, _ in sides),
        tuple(simulator for _, simulator in sides),
    )


def measured(table: Table) -> dict[str, float]:
    """Return the figures of tasks of a log that count, as `figures_of`."""
    counting = table[table["counts"]]
    finished = counting[counting["outcome"] == DONE]
    response_s = (finished["ended_s"] - finished["created_s"]).to_numpy()
    dropped = ~counting["outcome"].isin([DONE, OUTCOMES[OPEN]])
    return dict(zip(FIGURES, (response_s.mean(), np.quantile(response_s, 0.95), dropped.mean()), strict=True))


def section(played: Sequence[Played], seeds: int = SEEDS) -> Iterator[str]:
    """Yield the lines about some rules in one environment."""
    late = [each.lateness for each in played]
    tasks_ms = [1e3 * each.task_s for each in late]
    messages_ms = [1e3 * each.message_s for each in late]
    yield "### Late events\n"
    yield (
        f"On average over the plays of a rule and load, a task was decided {_range(tasks_ms)} ms after it was due, and "
        f"a message arrived {_range(messages_ms)} ms late, in the scenario's time. The simulator plays the same "
        f"episodes {seeds} times with such delays: each task and message is late by a draw from an exponential "
        "distribution with these means. A figure of the testbed is inside if it "
        "is between the 5th and the 95th percentile of these plays, or outside by at most 0.5 % (mean), 1 % (p95) or "
        "0.1 points (drops).\n"
    )
    yield "| rho | policy | mean, testbed | late simulator | p95, testbed | late simulator | dropped, testbed | late simulator | inside |"  # noqa: E501 - one row
    yield "|---|---|---|---|---|---|---|---|---|"
    total = 0
    for each, lateness in zip(played, late, strict=True):
        spread = spread_of(each.episodes, each.rule, lateness, seeds)
        found = measured(pd.concat(each.testbed))
        low, high = spread.quantile(LOW), spread.quantile(HIGH)
        cells = [
            f"{found[name]:.2f} s | {low[name]:.2f} to {high[name]:.2f} s"
            if name != "dropped"
            else f"{found[name]:.2%} | {low[name]:.2%} to {high[name]:.2%}".replace("%", " %")
            for name in FIGURES
        ]
        inside = sum(is_inside(name, found[name], spread) for name in FIGURES)
        total += inside
        yield f"| {each.rho:g} | {each.rule} | {' | '.join(cells)} | {inside} of {len(FIGURES)} |"
    yield f"\n{total} of {len(FIGURES) * len(played)} figures are inside. One in ten would be outside by chance.\n"
    yield from _causes(played)


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys((f"{min(values):.1f}", f"{max(values):.1f}")))


def _causes(played: Sequence[Played]) -> Iterator[str]:
    causes = [(each, *each.cause()) for each in played]
    same = [f"{each.rule} at rho {each.rho:g}" for each, _, cause in causes if not cause.other_way]
    if same:
        yield f"All tasks came to the same nodes on both sides with {', '.join(same)}.\n"
    if len(same) < len(causes):
        yield (
            "With the others, some tasks came to other nodes than in the simulator: they went another way. For the "
            f"episode where most did, the simulator found up to {MOST_LATE} tasks that explain it. These tasks are "
            "created later in the simulator, by as much as they arrived late on the testbed, and the last column says "
            "how many tasks still go another way. Late broadcasts, which can do the same, are not tried.\n"
        )
        yield "| rho | policy | episode | tasks | another way | late in the simulator | another way then |"
        yield "|---|---|---|---|---|---|---|"
    for each, episode, cause in causes:
        late = ", ".join(f"task {task} by {1e3 * late_s:.1f} ms" for task, late_s in cause.late_s.items())
        if cause.other_way:
            yield (
                f"| {each.rho:g} | {each.rule} | {episode} | {cause.tasks} | {cause.other_way} "
                f"| {late or 'none found'} | {cause.other_way_then} |"
            )
    yield ""
    if all(len(each.episodes) == 1 for each in played):
        return
    yield "The difference of the mean response, testbed minus simulator, of single episodes and of all together:\n"
    yield "| rho | policy | single episodes | all |"
    yield "|---|---|---|---|"
    for each in played:
        single = [
            measured(testbed)["mean"] / measured(simulator)["mean"] - 1
            for testbed, simulator in zip(each.testbed, each.simulator, strict=True)
        ]
        both = measured(pd.concat(each.testbed))["mean"] / measured(pd.concat(each.simulator))["mean"] - 1
        shown = ", ".join(f"{difference:+.1%}" for difference in single)
        yield f"| {each.rho:g} | {each.rule} | {shown} | {both:+.1%} |".replace("%", " %")
    yield ""
