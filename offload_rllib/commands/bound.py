"""The verb `bound`: how far policies are from a scheduler that knows the future."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from offload_rllib.commands.environment_options import (
    EnvArgument,
    EpisodesOption,
    HeldOutSeedOption,
    SetOption,
    TrustOption,
)
from offload_rllib.commands.evaluate import EVALUATIONS
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, load_environment
from offload_rllib.config.names import plain_name
from offload_rllib.simulator.heuristics import BASELINES


def bound(
    env: EnvArgument,
    policies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[POLICY]...", help="As in `evaluate`; by default the usual heuristics."),
    ] = None,
    set_: SetOption = None,
    trust: TrustOption = False,
    episodes: EpisodesOption = 10,
    held_out_seed: HeldOutSeedOption = 0,
    slot: Annotated[
        float | None, typer.Option(help="Seconds of a slot; shorter is tighter and slower. By default horizon / 500.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Every task at one node: a mixed-integer program, tighter and much slower.")
    ] = False,
    time_limit: Annotated[
        float | None, typer.Option(min=1.0, help="With --whole: seconds for each episode; 60 by default.")
    ] = None,
    dual: Annotated[
        bool, typer.Option("--dual", help="Without slots: a looser bound, in seconds for any number of tasks.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; must not exist.")] = None,
) -> None:
    """Compare policies with a clairvoyant lower bound on the mean score, episode by episode."""
    import numpy as np

    from offload_rllib.evaluation.evaluate import evaluate
    from offload_rllib.evaluation.interval_text import difference_text, number, with_half_width
    from offload_rllib.evaluation.lower_bound import bounds_of_episodes
    from offload_rllib.evaluation.metrics import SCORE
    from offload_rllib.evaluation.players import make_contenders
    from offload_rllib.evaluation.statistics import interval, paired_difference
    from offload_rllib.runs.folder import refuse_existing, write_results

    environment = load_environment(env, set_ or (), trust=trust)
    refuse_existing(out)
    if slot is not None and not slot > 0:
        raise ConfigError(f"--slot {slot:g}: must be above 0 s")
    if time_limit is not None and not whole:
        raise ConfigError("--time-limit: only with --whole; a linear program is solved to its end")
    if dual and (slot is not None or whole):
        raise ConfigError("--dual: has no slots and no whole tasks; accepted: without --slot and --whole")
    contenders = make_contenders(policies or BASELINES)
    with Progress(console=console, transient=True) as progress:
        evaluation = evaluate(environment, contenders, episodes=episodes, seed=held_out_seed, progress=progress)
        found = bounds_of_episodes(
            environment,
            episodes=episodes,
            seed=held_out_seed,
            slot_s=slot,
            whole=whole,
            time_limit_s=time_limit or 60.0,
            dual=dual,
            progress=progress,
        )
    bounds = np.array([each.mean_s for each in found])
    scores = {policy: evaluation.of(policy, SCORE) for policy in evaluation.policies}

    def write(into: Path) -> None:
        with (into / "bound.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["environment", "seed", "episode", "tasks", "slot_s", "proven", "bound_s", *scores])
            for e, each in enumerate(found):
                about = (evaluation.environment, held_out_seed, e, each.tasks, each.slot_s, each.proven, each.mean_s)
                writer.writerow([*about, *(float(values[e]) for values in scores.values())])

    folder, _ = write_results(out, EVALUATIONS, f"{plain_name(Path(env).stem)}-bound", write)
    mean = interval(bounds)
    kind = f"{'mixed-integer' if whole else 'linear'} program, slots of {found[0].slot_s:g} s"
    table = Table(
        title=f"lower bound of the mean score: {with_half_width(mean)} s ({'dual, without slots' if dual else kind})",
        caption=f"{episodes} held-out episodes; ±, [ ]: 95 % intervals; the optimum lies between bound and best policy",
    )
    for column in ("policy", "score, s", "above the bound, s", "times the bound"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for policy in sorted(scores, key=lambda name: scores[name].mean()):
        gap = paired_difference(scores[policy], bounds)
        times = scores[policy].mean() / bounds.mean()
        table.add_row(policy, number(scores[policy].mean()), difference_text(gap, sure=True), f"{times:.2f}")
    console.print(table)
    unproven = sum(not each.proven for each in found)
    if unproven:
        console.print(
            f"the time limit ended {unproven} of {episodes} programs; their bounds hold, and may be less tight"
        )
    say(f"bounds: {folder / 'bound.csv'}")
