"""`offload-rllib suite`: standard scenarios, scorecards, and checks of results from outside."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from offload_rllib.commands.environment_options import EpisodesOption, HeldOutSeedOption
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError

if TYPE_CHECKING:
    from offload_rllib.suite.results import PointResult
    from offload_rllib.suite.scenarios import Place

RESULTS = Path("suite_results")
STYLES = {"passed": "green", "note": "yellow", "failed": "bold red"}

app = typer.Typer(
    help="The benchmark suite: standard scenarios, scorecards, checks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Scenarios, or SCENARIO/POINT; by default all."),
]
ResultArgument = Annotated[Path, typer.Argument(metavar="RESULT", help="A result.json, or its folder.")]


@app.command("list")
def list_scenarios() -> None:
    """List the scenarios, after their files have been checked against their checksums."""
    from offload_rllib.suite.scenarios import catalogue, scenarios

    listing = Table(title=f"suite, version {catalogue().version}", title_justify="left")
    listing.add_column("scenario", no_wrap=True)
    for column in ("version", "points", "what it is"):
        listing.add_column(column, overflow="fold")
    for title, (_, scenario) in scenarios().items():
        listing.add_row(
            title, str(scenario.version), " ".join(point.name for point in scenario.points), scenario.summary
        )
    console.print(listing)


@app.command()
def run(
    names: NamesArgument = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="POLICY",
            help="Rules, run folders, or NAME=RUN,RUN,... for the training seeds of one learner; repeat. By default "
            "the rules of each scenario.",
        ),
    ] = None,
    episodes: EpisodesOption = 20,
    held_out_seed: HeldOutSeedOption = 0,
    bound: Annotated[bool, typer.Option("--bound", help="Also the clairvoyant bounds.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the result; must not exist.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Continue an interrupted run.")] = None,
) -> None:
    """Play policies in scenarios and write one scorecard: exact references, rules, learners."""
    from offload_rllib.runs.folder import next_free, refuse_existing
    from offload_rllib.suite.results import RESULT, read_result, references, write_result
    from offload_rllib.suite.scorecard import new_result, play

    if resume is not None:
        if names or policy or out:
            raise ConfigError("--resume takes everything from the folder; give no other arguments")
        result, folder = read_result(resume), resume if resume.is_dir() else resume.parent
        if result.finished:
            raise ConfigError(f"{resume}: this run is finished; there is nothing to resume")
    else:
        refuse_existing(out)
        command = shlex.join(["offload-rllib", *sys.argv[1:]])
        asked = {"command": command, "episodes": episodes, "seed": held_out_seed, "bounds": bound}
        result = new_result(names or (), policy or (), **asked)
        folder = out or next_free(RESULTS, "suite")
        folder.mkdir(parents=True)
        write_result(result, folder / RESULT)
    known = references()
    try:
        with Progress(console=console, transient=True) as progress:
            step = progress.add_task("points", total=len(result.places), completed=len(result.points))
            for point in play(result, folder, progress):
                progress.advance(step)
                _print_point(point, known.get((point.scenario, point.point)))
    except KeyboardInterrupt:
        say(f"interrupted; the points that are done are saved. Continue: offload-rllib suite run --resume {folder}")
        raise typer.Exit(130) from None
    say(f"result: {folder / RESULT}")
    done = read_result(folder)
    if not all(exact.passed for point in done.points for exact in point.exact):
        raise typer.Exit(1)


def _print_point(point: PointResult, reference: PointResult | None) -> None:
    """Print the scorecard of a point, the rows of the reference below those that were played."""
    from offload_rllib.evaluation.interval_text import number
    from offload_rllib.suite.scorecard import reproduced

    title = f"{point.scenario}/{point.point}"
    if point.exact:
        listing = Table(title=f"{title}: level 0", title_justify="left")
        for column in ("rule", "tasks", "mean, s", "exact, s", "largest difference, s", ""):
            listing.add_column(column, justify="left" if column in ("rule", "") else "right")
        for exact in point.exact:
            figures = (f"{value:.4f}" if value is not None else "" for value in (exact.mean_s, exact.exact_mean_s))
            apart = "" if exact.largest_difference_s is None else f"{exact.largest_difference_s:.1e}"
            outcome = "passed" if exact.passed else "failed"
            listing.add_row(exact.rule, f"{exact.tasks:,}", *figures, apart, Text(outcome, STYLES[outcome]))
        console.print(listing)
    listing = Table(title=f"{title}: levels 1 and 2", title_justify="left")
    for column in ("policy", "level", "score, s", "p95, s", "dropped, %", "remarks"):
        listing.add_column(column, justify="left" if column in ("policy", "remarks") else "right", overflow="fold")
    played = {policy.name for policy in point.policies}
    rows = [(policy, reproduced(policy, reference)) for policy in point.policies]
    rows += [(policy, "reference") for policy in (reference.policies if reference else ()) if policy.name not in played]
    for policy, remark in rows:
        figures = [policy.figures.get(name) for name in ("score_mean_s", "score_p95_s", "dropped_share")]
        values = [None if figure is None else figure.mean for figure in figures]
        shown = [
            "" if value is None else number(value * factor) for value, factor in zip(values, (1, 1, 100), strict=True)
        ]
        said_of = f"as the reference: {remark}" if remark not in ("", "reference") else remark
        remarks = "; ".join([*(f"not comparable: {why}" for why in policy.not_comparable), *filter(None, [said_of])])
        listing.add_row(policy.name, str(policy.level), *shown, remarks)
    if point.bound is not None:
        bounded = f"{number(point.bound.mean_s)} s over the first {point.bound.episodes} episodes"
        listing.caption = f"no policy can score below {bounded}"
    console.print(listing)


@app.command()
def check(
    result: ResultArgument,
    episodes: Annotated[
        int | None,
        typer.Option(min=10, help="Hidden episodes; by default as many as the result has. Two may be alike by chance."),
    ] = None,
    hidden_seed: Annotated[
        int | None, typer.Option(min=1, help="Repeat a check: the seed that it printed. By default drawn now.")
    ] = None,
    bound: Annotated[bool, typer.Option("--bound/--no-bound", help="Compute stated bounds again.")] = True,
) -> None:
    """Check a result from outside: its policies play the stated episodes and hidden ones. Exit code 1 if it fails."""
    from offload_rllib.suite.check import FAILED, check_result
    from offload_rllib.suite.check import hidden_seed as drawn
    from offload_rllib.suite.results import read_result

    read = read_result(result)
    folder = result if result.is_dir() else result.parent
    seed = hidden_seed or drawn()
    say(f"hidden episodes: seed {seed}")
    with Progress(console=console, transient=True) as progress:
        findings = list(check_result(read, folder, seed, episodes=episodes, bounds=bound, progress=progress))
    listing = Table()
    for column in ("point", "policy", "check", "", "found"):
        listing.add_column(column, overflow="fold")
    for one in findings:
        listing.add_row(one.place, one.policy, one.check, Text(one.outcome, STYLES[one.outcome]), one.found)
    console.print(listing)
    counts = {outcome: sum(one.outcome == outcome for one in findings) for outcome in STYLES}
    say(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    if any(one.outcome == FAILED for one in findings):
        raise typer.Exit(1)


@app.command()
def table(
    results: Annotated[
        list[Path] | None, typer.Argument(metavar="[RESULT]...", help="Results from elsewhere to put into the tables.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The Markdown file to write; by default it is printed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write the page of reference results, with results from elsewhere in its tables."""
    from offload_rllib.config.files import written_at_once
    from offload_rllib.suite.results import read_result, references
    from offload_rllib.suite.table import page

    text = page(references(), [read_result(path) for path in results or ()])
    if out is None:
        sys.stdout.write(text)
        return
    if out.exists() and not force:
        raise ConfigError(f"{out}: exists and is not overwritten; choose another --out, or say --force")
    with written_at_once(out) as partial:
        partial.write_text(text, encoding="utf-8")
    say(f"written: {out}")


RuleOption = Annotated[
    str, typer.Option(help="Destinations of the tasks: recorded (as the list says), local or always_cloud.")
]


@app.command()
def export(
    point: Annotated[str, typer.Argument(metavar="NAME", help="A point with exact responses, e.g. queue_14/fifo-0.6.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To write into; must not exist.")],
    rule: RuleOption = "recorded",
) -> None:
    """Write the tasks, nodes and links of a point for another simulator, as CSV."""
    from offload_rllib.runs.folder import write_results
    from offload_rllib.suite.beside import export as write

    place = _one_point(point)
    _, written = write_results(folder, folder.parent, folder.name, lambda into: write(place, into, rule))
    for path in written:
        say(f"written: {folder / path.name}")


@app.command()
def compare(
    point: Annotated[str, typer.Argument(metavar="NAME", help="The point whose tasks were played.")],
    files: Annotated[
        list[str], typer.Argument(metavar="[NAME=]FILE...", help="Responses: CSV with task, response_s, outcome.")
    ],
    rule: RuleOption = "recorded",
    cpu_seconds: Annotated[
        list[str] | None,
        typer.Option("--cpu-seconds", metavar="NAME=SECONDS", help="What a simulator needed, for its speed; repeat."),
    ] = None,
) -> None:
    """Compare responses of other simulators with the exact ones and with this simulator: accuracy and speed."""
    from offload_rllib.suite.beside import beside

    named = [_named(file) for file in files]
    spent = dict(map(_seconds, cpu_seconds or ()))
    for name in spent:
        if name not in {other for other, _ in named}:
            raise ConfigError(f"--cpu-seconds {name}: no such name; accepted: {', '.join(other for other, _ in named)}")
    found = beside(_one_point(point), named, spent, rule)
    exact = found[0].differences
    listing = Table(title=f"{point}, {rule}: {exact.tasks:,} tasks", title_justify="left")
    columns = (
        "simulator",
        "mean, s",
        "p95, s",
        "mean diff., s",
        "largest diff., s",
        "other outcomes",
        "tasks per CPU-s",
    )
    for column in columns:
        listing.add_column(column, justify="left" if column == "simulator" else "right", overflow="fold")
    listing.add_row("exact", f"{exact.exact_mean_s:.6f}", f"{exact.exact_p95_s:.6f}", "", "", "", "")
    for one in found:
        apart = one.differences
        listing.add_row(
            one.name,
            *(f"{value:.6f}" for value in (apart.mean_s, apart.p95_s)),
            *(f"{value:.1e}" for value in (apart.mean_difference_s, apart.largest_difference_s)),
            f"{apart.other_outcomes:,}",
            f"{one.tasks_per_cpu_s:,.0f}" if math.isfinite(one.tasks_per_cpu_s) else "",
        )
    console.print(listing)
    say("differences are those of tasks that finish in both")


def _one_point(name: str) -> Place:
    from offload_rllib.suite.scenarios import places

    found = places([name])
    if len(found) > 1:
        raise ConfigError(f"'{name}': has {len(found)} points; accepted: one of {', '.join(one.name for one in found)}")
    return found[0]


def _named(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    return (name, Path(file)) if equals and name else (Path(text).stem, Path(text))


def _seconds(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        seconds = float(number)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--cpu-seconds '{text}': accepted: NAME=SECONDS with a number above 0")
    return name, seconds
