"""The options of every verb that works on Ray: the cluster, the resources, and the storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from offload_rllib.config import ConfigError

PANEL = "Cluster"

AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=PANEL,
        help="auto, host:port or ray://host:port of a Ray cluster, or local; by default RAY_ADDRESS, otherwise local.",
    ),
]
RunnersOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        rich_help_panel=PANEL,
        help="Processes that sample; all: as many as the cluster has CPUs for. By default the policy's number.",
    ),
]
CpusPerRunnerOption = Annotated[
    float | None,
    typer.Option(min=0.01, rich_help_panel=PANEL, help="CPUs reserved for each; by default an equal share, at most 1."),
]
LearnersOption = Annotated[
    int | None,
    typer.Option(min=0, max=64, rich_help_panel=PANEL, help="Processes that learn; 0: in the trainer's process."),
]
GpusOption = Annotated[
    float | None, typer.Option(min=0, rich_help_panel=PANEL, help="GPUs for learning, divided among the learners.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|URI",
        rich_help_panel=PANEL,
        help="Where runs are kept: a folder that all nodes see, or s3://, gs://, hdfs://, file://.",
    ),
]
ShipCodeOption = Annotated[
    bool,
    typer.Option(
        "--ship-code", rich_help_panel=PANEL, help="Send this package's files to the nodes (not its dependencies)."
    ),
]
DashboardOption = Annotated[
    bool, typer.Option("--dashboard", rich_help_panel=PANEL, help="With a Ray of its own: start its dashboard.")
]

ALL = "all"


def training_overrides(
    runners: str | None = None,
    cpus_per_runner: float | None = None,
    learners: int | None = None,
    gpus: float | None = None,
) -> list[str]:
    """Return the given options as changes of a policy (``KEY=VALUE``); ``--runners all`` is not one of them.

    Raises:
        ConfigError: runners is neither a number nor ``all``.
    """
    if runners is not None and runners != ALL and not runners.isdigit():
        raise ConfigError(f"--runners '{runners}': accepted: a number, or all")
    given = {
        "runners": None if runners == ALL else runners,
        "cpus_per_runner": cpus_per_runner,
        "learners": learners,
        "gpus": gpus,
    }
    return [f"training.{key}={value}" for key, value in given.items() if value is not None]


@contextmanager
def on_cluster(address: str | None, storage: str | None, *, ship_code: bool) -> Iterator[str | None]:
    """Connect to the cluster that is asked for, if one is; a Ray of its own is started later, where it is needed.

    Gives `storage` back.

    Raises:
        ConfigError: the storage is an address, or missing where several nodes write.
        ClusterError: the cluster cannot be used.
    """
    from offload_rllib.cluster.connection import RayOptions, check_shared, connect, use
    from offload_rllib.runs.training_run import is_uri

    if storage is not None and is_uri(storage):
        raise ConfigError(f"--storage {storage}: accepted here: a folder that all nodes see")
    options = RayOptions(address, ship_code=ship_code)
    if options.is_client:
        raise ConfigError(f"--address {options.resolved}: accepted here: auto, host:port, local; or use ray job submit")
    use(options)
    if options.is_local:
        yield storage
        return
    with connect() as cluster:
        if len(cluster.nodes) > 1:
            if storage is None:
                raise ConfigError("--storage: on several nodes a folder is needed that all of them see")
            Path(storage).mkdir(parents=True, exist_ok=True)
            check_shared(Path(storage), cluster)
        yield storage


def named_below(storage: str | None, name: str | None, default: str) -> str | None:
    """Return the name or path of a new folder: below the storage, if there is one."""
    from offload_rllib.runs.training_run import next_free

    if storage is None or (name is not None and "/" in name):
        return name
    return str(Path(storage).resolve() / name if name else next_free(Path(storage).resolve(), default))
