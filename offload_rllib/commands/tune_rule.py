"""`offload-rllib tune-rule`: the best parameter of a decision rule, or the best rule, on training episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from offload_rllib.commands.environment_options import EnvArgument, SetOption
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, load_environment

if TYPE_CHECKING:
    from offload_rllib.evaluation.rule_tuning import RankedRules, TunedRule


def tune_rule(
    env: EnvArgument,
    rule: Annotated[
        str | None,
        typer.Argument(metavar="[RULE]", help="A heuristic with a parameter, e.g. size_interval; otherwise all rules."),
    ] = None,
    set_: SetOption = None,
    values: Annotated[
        str | None,
        typer.Option(metavar="V1,V2,...", help="Values to try; by default from a quarter to four times the default."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The metric whose mean decides; default: the mean score, or the mean cost where drops, energy or "
            "price cost something.",
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Training episodes, the same for all values.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training episodes.")] = 0,
) -> None:
    """Find the best parameter of a rule, or the best rule, on training episodes, as learners are trained on them."""
    from offload_rllib.evaluation import rule_tuning

    environment = load_environment(env, set_ or ())
    if rule is None:
        if values is not None:
            raise ConfigError(f"--values '{values}': no rule is named; accepted: with a RULE, e.g. size_interval")
        with Progress(console=console, transient=True) as progress:
            ranked = rule_tuning.rank_rules(environment, metric=metric, episodes=episodes, seed=seed, progress=progress)
        _print_ranked(ranked, episodes)
        say(f"best: {ranked.best}")
        say(f"judge it on held-out episodes: offload-rllib evaluate {env} {' '.join(ranked.names[:3])}")
        return
    with Progress(console=console, transient=True) as progress:
        tuned = rule_tuning.tune_rule(
            environment,
            rule,
            values=_numbers(values),
            metric=metric,
            episodes=episodes,
            seed=seed,
            progress=progress,
        )
    _print(tuned, episodes)
    if tuned.at_the_end:
        say(f"note: {tuned.chosen:g} is the last value on its side; a better one may lie beyond: --values V1,V2,...")
    say(f"chosen: {tuned.name}")
    say(f"judge it on held-out episodes: offload-rllib evaluate {env} {tuned.name} {rule}")


def _numbers(text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--values '{text}': must be numbers, separated by commas, e.g. 2,3,4") from None


def _print(tuned: TunedRule, episodes: int) -> None:
    from rich.table import Table

    from offload_rllib.evaluation.metrics import metric_of
    from offload_rllib.reporting.tables import difference_text, with_half_width

    about = metric_of(tuned.metric)
    table = Table(
        title=f"{tuned.rule} on {episodes} training episodes",
        caption="±, [ ]: 95 % intervals; ( ): no certain difference, adjusted for the number of values",
    )
    table.add_column("value", justify="right")
    table.add_column(about.label, justify="right")
    table.add_column(f"minus the default's ({tuned.default:g})", justify="right")
    for value, mean, difference, differs in zip(
        tuned.values, tuned.means, tuned.differences, tuned.differs, strict=True
    ):
        text = "" if value == tuned.default else difference_text(difference, about.factor, sure=differs)
        style = "bold" if value == tuned.chosen else ""
        table.add_row(f"{value:g}", with_half_width(mean, about.factor), text, style=style)
    console.print(table)


def _print_ranked(ranked: RankedRules, episodes: int) -> None:
    from rich.table import Table

    from offload_rllib.evaluation.metrics import metric_of
    from offload_rllib.evaluation.statistics import certain
    from offload_rllib.reporting.tables import difference_text, with_half_width

    about = metric_of(ranked.metric)
    table = Table(
        title=f"all rules on {episodes} training episodes, each with its best parameter",
        caption="±, [ ]: 95 % intervals; ( ): no certain difference, adjusted for the number of rules",
    )
    table.add_column("rule")
    table.add_column(about.label, justify="right")
    table.add_column("minus the best's", justify="right")
    rows = zip(ranked.names, ranked.means, ranked.differences, certain(ranked.differences), strict=True)
    for name, mean, difference, differs in rows:
        is_best = name == ranked.best
        text = "" if is_best else difference_text(difference, about.factor, sure=differs)
        table.add_row(name, with_half_width(mean, about.factor), text, style="bold" if is_best else "")
    console.print(table)
