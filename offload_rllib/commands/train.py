"""`offload-rllib train`: one training run, here or on a cluster."""

from __future__ import annotations

import shlex
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload_rllib.commands.cluster_options import (
    ALL,
    AddressOption,
    CpusPerRunnerOption,
    DashboardOption,
    GpusOption,
    LearnersOption,
    RunnersOption,
    ShipCodeOption,
    StorageOption,
    training_overrides,
)
from offload_rllib.commands.environment_options import (
    EpisodesOption,
    HeldOutSeedOption,
    SetOption,
    SetPolicyOption,
    TrustOption,
)
from offload_rllib.commands.evaluate import play
from offload_rllib.commands.terminal import console, say, say_logs
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.loading import find, preset_folder
from offload_rllib.config.names import plain_name
from offload_rllib.config.trust import functions_of
from offload_rllib.runs.status import WORKING, read_status
from offload_rllib.simulator.heuristics import BASELINES

if TYPE_CHECKING:
    from offload_rllib.cluster.connection import RayOptions
    from offload_rllib.envs.vector import NativeEnv
    from offload_rllib.runs.training_run import RunFolder
    from offload_rllib.scenario import BuiltScenario

# ray and torch take seconds to import: only a training that is about to run needs them.


def train(
    env: Annotated[str | None, typer.Argument(metavar="ENV", help="An environment, as in `evaluate`.")] = None,
    policy: Annotated[
        str | None, typer.Argument(metavar="POLICY", help="A preset of policies/ or a YAML file.")
    ] = None,
    set_: SetOption = None,
    set_policy: SetPolicyOption = None,
    name: Annotated[str | None, typer.Option(help="The run's folder under runs/; must not exist.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue an interrupted run, by its folder.")
    ] = None,
    trust: TrustOption = False,
    or_resume: Annotated[
        bool,
        typer.Option(
            "--or-resume", help="With --name: continue the run if it exists; a finished one is left as it is."
        ),
    ] = False,
    episodes: EpisodesOption = 20,
    held_out_seed: HeldOutSeedOption = 0,
    address: AddressOption = None,
    runners: RunnersOption = None,
    cpus_per_runner: CpusPerRunnerOption = None,
    learners: LearnersOption = None,
    gpus: GpusOption = None,
    storage: StorageOption = None,
    ship_code: ShipCodeOption = False,
    dashboard: DashboardOption = False,
) -> None:
    """Train a policy, then compare it with the heuristics on held-out episodes."""
    from offload_rllib.cluster.connection import RayOptions, connect, use
    from offload_rllib.training.train import quieten
    from offload_rllib.training.train import train as train_run

    options = RayOptions(address, ship_code=ship_code, dashboard=dashboard)
    changes = [*(set_policy or ()), *training_overrides(runners, cpus_per_runner, learners, gpus)]
    if options.is_client:
        numbers = ["--episodes", str(episodes), "--held-out-seed", str(held_out_seed)]
        flags = [flag for flag, is_set in (("--or-resume", or_resume), ("--trust", trust)) if is_set]
        given = {"--name": name, "--resume": resume, "--runners": ALL if runners == ALL else None}
        texts = [part for key, value in given.items() if value is not None for part in (key, value)]
        if resume is not None and not Path(resume).is_absolute():
            raise ConfigError(f"--resume '{resume}': from outside a cluster the whole path on its nodes is needed")
        _train_from_outside(options, env, policy, set_, changes, storage, [*numbers, *flags, *texts], trust=trust)
        return
    if or_resume and (resume or not name):
        raise ConfigError("--or-resume needs --name, and no --resume")
    if resume is not None and (env or policy or set_ or name or storage or changes or runners):
        raise ConfigError("--resume takes environment and policy from the run; give no other arguments")
    if or_resume and env is not None and not trust:  # code that the command itself names is trusted
        trust = bool(functions_of(load_environment(env, set_ or ())))
    begun = _to_resume(resume, trust=trust) if resume else _begun(name, storage, trust=trust) if or_resume else None
    if begun is not None and begun.state == "finished":
        say(f"{begun.path}: this run is finished")
        return
    if begun is None and (env is None or policy is None):
        raise ConfigError("train needs ENV and POLICY, e.g.: offload-rllib train ether_12 ppo")
    quieten()
    use(options)
    with ExitStack() as connection:
        nodes = 1
        if not options.is_local:  # what fits is known only there; a Ray of its own is started when all is checked
            cluster = connection.enter_context(connect())
            nodes = len(cluster.nodes)
            say(f"cluster: {nodes} nodes, {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs")
        # A run that is resumed keeps the runners that it began with.
        take_all = begun is None and (runners == ALL or (nodes > 1 and not _chooses_runners(policy or "", changes)))
        new = (set_, changes, name, storage)
        run, built = (begun, None) if begun else _new_run(env or "", policy or "", *new, take_all=take_all, trust=trust)
        say(f"run folder: {run.path}")
        say_logs(run.path)
        with nullcontext() if begun else run.removed_if_not_begun():
            finished = train_run(run, console, resume=begun is not None, env=built)
    if not finished:
        say(f"interrupted; what was done is saved. Continue with: {run.resume_command}")
        raise typer.Exit(130)
    _compare_with_heuristics(run, episodes, held_out_seed, built.scenario if built else None)


def _chooses_runners(policy: str, changes: list[str]) -> bool:
    """Return whether a person said how many runners there are to be: by an option, or in a policy file of their own."""
    if any(change.startswith("training.runners=") for change in changes):
        return True
    path = find("policies", policy)
    own = path.resolve().parent != preset_folder("policies").resolve()
    return own and "runners" in load_policy_config(path, trust=True).training.model_fields_set


def _new_run(
    env: str,
    policy: str,
    set_: list[str] | None,
    changes: list[str],
    name: str | None,
    storage: str | None,
    *,
    take_all: bool,
    trust: bool,
) -> tuple[RunFolder, NativeEnv]:
    """Return the folder of a new run, after all that can be wrong with it was looked for, and its environment."""
    from offload_rllib.runs.training_run import RunFolder
    from offload_rllib.training.train import check, with_all_runners

    environment = load_environment(env, set_ or (), trust=trust)
    configured = load_policy_config(policy, changes, trust=trust)
    if take_all:
        configured = with_all_runners(configured)
        say(f"runners: {configured.training.runners}, as many as there is room for")
    built = check(environment, configured)
    for note in built.scenario.notes:
        say(f"note: {note}")
    stem = Path(env).stem
    default_name = f"{stem}-{Path(policy).stem}"
    return RunFolder.create(name, environment, configured, default_name, storage, environment_name=stem), built


def _compare_with_heuristics(run: RunFolder, episodes: int, held_out_seed: int, scenario: BuiltScenario | None) -> None:
    from offload_rllib.training.model_card import write_model_card

    evaluation = run.path / "evaluation"
    play(
        run.environment,
        [str(run.path), *BASELINES],
        episodes,
        held_out_seed,
        lambda write: write(evaluation),
        label=plain_name(run.environment_name),
        title=f"{run.environment_name}, {run.name}",
        scenario=scenario,
    )
    say(f"model card: {write_model_card(run)}")
    say(f"trained policy: {run.path / 'policy'}")
    say_logs(run.path)


def _train_from_outside(
    options: RayOptions,
    env: str | None,
    policy: str | None,
    set_: list[str] | None,
    set_policy: list[str],
    storage: str | None,
    others: list[str],
    *,
    trust: bool,
) -> None:
    """Let a process in the cluster train; environment and policy are resolved here and sent along."""
    import yaml

    from offload_rllib.cluster.remote_driver import run_there
    from offload_rllib.runs.training_run import is_uri

    files, arguments = {}, list(others)
    if "--resume" not in others:
        if env is None or policy is None:
            raise ConfigError("train needs ENV and POLICY, e.g.: offload-rllib train ether_12 ppo")
        if storage is None or is_uri(storage) or not Path(storage).is_absolute():
            raise ConfigError(
                "--storage: from outside a cluster the whole path of a folder is needed that all its nodes see"
            )
        environment = load_environment(env, set_ or (), trust=trust)
        configured = load_policy_config(policy, set_policy, trust=trust)
        names = f"{Path(env).stem}.yaml", f"{Path(policy).stem}.yaml"
        if names[0] == names[1]:
            names = names[0], f"policy-{names[1]}"
        contents = environment.model_dump(mode="json"), configured.model_dump(mode="json", by_alias=True)
        del contents[1]["training"]["runners"]  # there, it would count as chosen
        files = {file: yaml.safe_dump(content, sort_keys=False) for file, content in zip(names, contents, strict=True)}
        arguments = [*names, *arguments, "--storage", storage]
        if _chooses_runners(policy, set_policy):
            arguments += ["--runners", str(configured.training.runners)]
    code = run_there(options, files, ["train", *arguments], lambda text: console.out(text, end="", highlight=False))
    if code:
        raise typer.Exit(code)


def _to_resume(path: str, *, trust: bool) -> RunFolder:
    from offload_rllib.runs.training_run import RunFolder

    run = RunFolder.open(path, trust=trust)
    if run.state == "finished":
        raise ConfigError(f"{run.path}: this run is finished; there is nothing to resume")
    return run


def _begun(name: str | None, storage: str | None, *, trust: bool) -> RunFolder | None:
    """Return the run of a name if its training has begun; one that had not come to its first checkpoint is removed."""
    from offload_rllib.runs.training_run import RUNS, RunFolder, is_uri

    if not name:
        return None
    parent = RUNS if storage is None or is_uri(storage) else Path(storage)
    path = Path(name) if "/" in name else parent / name
    if not path.is_dir():
        return None
    run = RunFolder.open(path, trust=trust)
    if run.state == "training" and read_status(path)["health"].startswith(WORKING):
        raise ConfigError(
            f"{path}: this run is being trained; watch it: {shlex.join(['offload-rllib', 'status', str(path)])}"
        )
    if run.state != "finished" and not run.checkpoints() and not is_uri(run.experiment):
        run.remove()
        return None
    return run
