"""`offload-rllib tune`: sweeps of hyperparameters."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload_rllib.commands.cluster_options import (
    AddressOption,
    ShipCodeOption,
    StorageOption,
    named_below,
    on_cluster,
)
from offload_rllib.commands.environment_options import TrustOption
from offload_rllib.commands.terminal import console, say, say_logs
from offload_rllib.config import ConfigError
from offload_rllib.config.loading import load_sweep

if TYPE_CHECKING:
    from offload_rllib.sweep.folder import SweepFolder
    from offload_rllib.sweep.outcomes import TrialOutcome

# ray and torch take seconds to import: only a sweep that is about to run needs them.


def tune(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A sweep: a preset of tune_configs/ or a YAML file.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the sweep, e.g. budget.trials=8."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The sweep's folder under sweeps/; must not exist.")] = None,
    trust: TrustOption = False,
    resume: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Continue an interrupted sweep, by its folder.")
    ] = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    ship_code: ShipCodeOption = False,
) -> None:
    """Search hyperparameters: many trials, a leaderboard, plots, and the best policy as a file."""
    from offload_rllib.training.train import quieten

    quieten()
    with on_cluster(address, storage, ship_code=ship_code) as parent:
        _tune(config, set_, named_below(parent, name, Path(config).stem if config else ""), resume, trust=trust)


def _tune(config: str | None, set_: list[str] | None, name: str | None, resume: str | None, *, trust: bool) -> None:
    from offload_rllib.sweep.folder import SweepFolder
    from offload_rllib.sweep.plan import check_plan, plan_sweep
    from offload_rllib.sweep.run import sweep
    from offload_rllib.training.train import available_cpus

    if resume is not None:
        if config or set_ or name:
            raise ConfigError("--resume takes everything from the sweep's folder; give no other arguments")
        folder = SweepFolder.open(resume, trust=trust)
        if folder.state == "finished":
            raise ConfigError(f"{folder.path}: this sweep is finished; there is nothing to resume")
    else:
        if config is None:
            raise ConfigError("tune needs CONFIG, e.g.: offload-rllib tune ppo")
        plan = plan_sweep(load_sweep(config, set_ or (), trust=trust), trust=trust)
        with console.status("checking the sweep (a new installation compiles the simulator, for about a minute)"):
            warnings = check_plan(plan, available_cpus())
        for line in warnings:
            say(f"note: {line}")
        folder = SweepFolder.create(name, plan, Path(config).stem)
    say(f"sweep folder: {folder.path}")
    say_logs(folder.path)
    with nullcontext() if resume else folder.removed_if_not_begun():
        finished, outcomes = sweep(folder, console, resume=resume is not None)
    _report(folder, outcomes)
    if not finished:
        say(f"interrupted; what was done is saved. Continue with: {folder.resume_command}")
        raise typer.Exit(130)


def _report(folder: SweepFolder, outcomes: list[TrialOutcome]) -> None:
    from offload_rllib.sweep.leaderboard import trials_table
    from offload_rllib.sweep.outcomes import FAILED, ranked
    from offload_rllib.sweep.plots import importances, shares_text
    from offload_rllib.sweep.report import BEST_ENVIRONMENT, write_sweep_report

    plan = folder.plan
    # Files first: a closed pipe ends the printing, and must not cost the results.
    paths = write_sweep_report(folder, plan, outcomes)
    console.print(trials_table(plan, ranked(plan.config.metrics, outcomes), f"{len(outcomes)} trials, best first"))
    for outcome in outcomes:
        if outcome.state == FAILED:
            say(f"{outcome.name} failed: {outcome.problem}")
    shares = importances(plan, outcomes)
    if shares:
        say(f"importance for {plan.config.metrics[0].name}: {shares_text(shares)}")
    for what, path in paths.items():
        say(f"{what}: {path}")
    if "best policy" in paths:
        environment = folder.path / BEST_ENVIRONMENT if plan.touches_environment else plan.config.environment
        words = ["offload-rllib", "train", str(environment), str(paths["best policy"])]
        say(f"train it: {shlex.join(words)}")
