"""The verb `calibrate`: an environment with the speeds, rates and latencies that a log of tasks has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from offload_rllib.commands.environment_options import SetOption, TrustOption
from offload_rllib.commands.terminal import console, say
from offload_rllib.config import ConfigError, load_environment


def calibrate(
    log: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a testbed, or a Parquet file of tasks.")],
    env: Annotated[str, typer.Option("--env", metavar="ENV", help="A preset's name or a path to a YAML file.")],
    set_: SetOption = None,
    trust: TrustOption = False,
    load: Annotated[float | None, typer.Option(help="Which load of the log; needed if it has several.")] = None,
    out: Annotated[Path | None, typer.Option(help="The YAML to write; must not exist.")] = None,
) -> None:
    """Fit speeds of devices, rates and latencies of links to a log of tasks, and write the environment with them."""
    from offload_rllib.evaluation.interval_text import number
    from offload_rllib.scenario import build_scenario
    from offload_rllib.testbed.analysis.calibrated import calibrated, write_calibrated
    from offload_rllib.testbed.analysis.calibration import calibrate as fit
    from offload_rllib.testbed.analysis.log import read_log

    if not log.exists():
        raise ConfigError(f"{log}: no such file or folder")
    scenario = build_scenario(load_environment(env, set_ or (), trust=trust))
    tasks = read_log(log, nodes=[node.name for node in scenario.network.nodes])
    calibration = fit(tasks, scenario, load=load)
    content = calibrated(scenario, calibration)
    path = out or Path(f"{Path(env).stem}_calibrated.yaml")
    write_calibrated(content, path, about=f"Fitted to {log}, from {env}: offload-rllib calibrate, see the page on it.")
    table = Table(title="measured, relative to the model", caption="±: 95 % interval; kept: the values of the model")
    for column in ("what", "times", "speed or rate", "latency, ms", "kept, because"):
        table.add_column(column, overflow="fold")
    for fit_, is_link in [(f, False) for f in calibration.devices] + [(f, True) for f in calibration.links]:
        factor = latency = ""
        if not fit_.kept:
            factor = f"x {1 / fit_.factor:.4g}"
            if fit_.error > 1e-6 * fit_.factor:  # not rounding, and known
                factor += f" ± {number(fit_.error / fit_.factor**2)}"
            latency = f"{fit_.shift_s * 1e3:+.3g}" if is_link and not fit_.latency_kept else ""
        kept = fit_.kept or (f"latency: {fit_.latency_kept}" if is_link and fit_.latency_kept else "")
        table.add_row(fit_.group, str(fit_.tasks), factor, latency, kept)
    console.print(table)
    say(f"environment: {path}")
