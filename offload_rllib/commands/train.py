"""`offload-rllib train`: one training run, here or on a cluster."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
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
from offload_rllib.commands.compare import ClusterChoice, begin_comparison, resume_comparison
from offload_rllib.commands.environment_options import (
    EpisodesOption,
    HeldOutSeedOption,
    SetOption,
    SetPolicyOption,
    TrustOption,
    WeightsOption,
    changes_of,
)
from offload_rllib.commands.evaluate import play
from offload_rllib.commands.terminal import console, say, say_logs
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.imitation import teacher_key
from offload_rllib.config.loading import find, preset_folder
from offload_rllib.config.names import plain_name
from offload_rllib.config.seeds import parse_seeds
from offload_rllib.config.trust import functions_of
from offload_rllib.runs.folder import is_comparison
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
    weights: WeightsOption = None,
    set_policy: SetPolicyOption = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Start with the weights of a run, a checkpoint or a policy."),
    ] = None,
    imitate: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="Start from a clone of a heuristic, made before training; best: of the best."
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS", help="Train once for each training seed, 0:5 or 0,3,7, and compare: see `compare`."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The folder under runs/, or with --seeds under comparisons/; must not exist.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Continue what was interrupted: a run, or a run of --seeds.")
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
    from offload_rllib.cluster.connection import RayOptions

    takes_all = runners == ALL
    changes = [*(set_policy or ()), *training_overrides(runners, cpus_per_runner, learners, gpus)]
    if from_ is not None:
        changes.append(f"training.start_from={json.dumps(str(from_.absolute()))}")
    if imitate is not None:
        changes.append(f"training.imitate.{teacher_key(imitate)}={json.dumps(imitate)}")
    asked = Asked(env, policy, changes_of(set_, weights), changes, name, storage, episodes, held_out_seed, trust)
    if seeds is not None or (resume is not None and is_comparison(Path(resume))):
        for option, is_given in {
            "--or-resume": or_resume,
            "--dashboard": dashboard,
            "--runners all": takes_all,
        }.items():
            if is_given:
                raise ConfigError(f"{option}: not with --seeds; accepted: a run with one training seed")
        _train_seeds(asked, seeds, resume, ClusterChoice(address, storage, ship_code=ship_code))
        return
    options = RayOptions(address, ship_code=ship_code, dashboard=dashboard)
    if options.is_client:
        _train_from_outside(options, asked, resume, or_resume=or_resume, takes_all=takes_all)
        return
    _train_one(options, asked, resume, or_resume=or_resume, takes_all=takes_all)


@dataclass(frozen=True)
class Asked:
    """What is to be trained, as a person asked for it."""

    env: str | None
    policy: str | None
    set_: list[str]
    changes: list[str]
    """Of the policy."""
    name: str | None
    storage: str | None
    episodes: int
    held_out_seed: int
    trust: bool

    @property
    def names(self) -> tuple[str, str]:
        """Environment and policy.

        Raises:
            ConfigError: one is missing.
        """
        if self.env is None or self.policy is None:
            raise ConfigError("train needs ENV and POLICY, e.g.: offload-rllib train ether_12 ppo")
        return self.env, self.policy

    def refuse_with_resume(self, *others: object) -> None:
        """Reject what a folder that is resumed states itself."""
        if any((self.env, self.policy, self.set_, self.changes, self.name, self.storage, *others)):
            raise ConfigError("--resume takes environment and policy from the run; give no other arguments")


def _train_seeds(asked: Asked, seeds: str | None, resume: str | None, where: ClusterChoice) -> None:
    """Make, or resume, the comparison of a policy that is trained with every seed, and the usual rules."""
    from offload_rllib.compare.plan import plan_of
    from offload_rllib.training.train import quieten

    quieten()
    if resume is not None:
        asked.refuse_with_resume(seeds)
        resume_comparison(resume, where, trust=asked.trust)
        return
    env, policy = asked.names
    if any(change.startswith("training.seed=") for change in asked.changes):
        raise ConfigError("--set-policy training.seed: --seeds gives the training seeds; accepted: one of the two")
    load_policy_config(policy, asked.changes, trust=asked.trust)  # the name of a rule would be taken otherwise
    plan = plan_of(
        [policy, *BASELINES],
        [env],
        overrides=asked.set_,
        policy_overrides=asked.changes,
        trust=asked.trust,
        training_seeds=parse_seeds(seeds or ""),
        episodes=asked.episodes,
        held_out_seed=asked.held_out_seed,
    )
    begin_comparison(plan, asked.name, where, stem=f"{plain_name(Path(env).stem)}-{plan.reference}-seeds")


def _train_one(options: RayOptions, asked: Asked, resume: str | None, *, or_resume: bool, takes_all: bool) -> None:
    from offload_rllib.cluster.connection import connect, use
    from offload_rllib.training.train import quieten
    from offload_rllib.training.train import train as train_run

    trust = asked.trust
    if or_resume and (resume or not asked.name):
        raise ConfigError("--or-resume needs --name, and no --resume")
    if resume is not None:
        asked.refuse_with_resume(takes_all)
    if or_resume and asked.env is not None and not trust:  # code that the command itself names is trusted
        trust = bool(functions_of(load_environment(asked.env, asked.set_)))
    begun = None
    if resume is not None:
        begun = _to_resume(resume, trust=trust)
    elif or_resume:
        begun = _begun(asked.name, asked.storage, trust=trust)
    if begun is not None and begun.state == "finished":
        say(f"{begun.path}: this run is finished")
        return
    policy = "" if begun else asked.names[1]
    quieten()
    use(options)
    with ExitStack() as connection:
        nodes = 1
        if not options.is_local:  # what fits is known only there; a Ray of its own is started when all is checked
            cluster = connection.enter_context(connect())
            nodes = len(cluster.nodes)
            say(f"cluster: {nodes} nodes, {cluster.cpus:g} CPUs, {cluster.gpus:g} GPUs")
        # A run that is resumed keeps the runners that it began with.
        take_all = begun is None and (takes_all or (nodes > 1 and not _chooses_runners(policy, asked.changes)))
        run, built = (begun, None) if begun else _new_run(asked, take_all=take_all)
        say(f"run folder: {run.path}")
        say_logs(run.path)
        with nullcontext() if begun else run.removed_if_not_begun():
            finished = train_run(run, console, resume=begun is not None, env=built)
    if not finished:
        say(f"interrupted; what was done is saved. Continue with: {run.resume_command}")
        raise typer.Exit(130)
    _compare_with_heuristics(run, asked.episodes, asked.held_out_seed, built.scenario if built else None)


def _chooses_runners(policy: str, changes: list[str]) -> bool:
    """Return whether a person said how many runners there are to be: by an option, or in a policy file of their own."""
    if any(change.startswith("training.runners=") for change in changes):
        return True
    path = find("policies", policy)
    own = path.resolve().parent != preset_folder("policies").resolve()
    return own and "runners" in load_policy_config(path, trust=True).training.model_fields_set


def _new_run(asked: Asked, *, take_all: bool) -> tuple[RunFolder, NativeEnv]:
    """Return the folder of a new run, after all that can be wrong with it was looked for, and its environment."""
    from offload_rllib.runs.training_run import RunFolder
    from offload_rllib.training.train import check, with_all_runners

    env, policy = asked.names
    environment = load_environment(env, asked.set_, trust=asked.trust)
    configured = load_policy_config(policy, asked.changes, trust=asked.trust)
    if take_all:
        configured = with_all_runners(configured)
        say(f"runners: {configured.training.runners}, as many as there is room for")
    built = check(environment, configured)
    for note in built.scenario.notes:
        say(f"note: {note}")
    stem = Path(env).stem
    default_name = f"{stem}-{Path(policy).stem}"
    folder = RunFolder.create(asked.name, environment, configured, default_name, asked.storage, environment_name=stem)
    return folder, built


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
    options: RayOptions, asked: Asked, resume: str | None, *, or_resume: bool, takes_all: bool
) -> None:
    """Let a process in the cluster train; environment and policy are resolved here and sent along."""
    import yaml

    from offload_rllib.cluster.remote_driver import run_there
    from offload_rllib.runs.training_run import is_uri

    if resume is not None and not Path(resume).is_absolute():
        raise ConfigError(f"--resume '{resume}': from outside a cluster the whole path on its nodes is needed")
    given = {"--name": asked.name, "--resume": resume, "--runners": ALL if takes_all else None}
    flags = [flag for flag, is_set in (("--or-resume", or_resume), ("--trust", asked.trust)) if is_set]
    arguments = ["--episodes", str(asked.episodes), "--held-out-seed", str(asked.held_out_seed), *flags]
    arguments += [part for key, value in given.items() if value is not None for part in (key, value)]
    files = {}
    if resume is None:
        env, policy = asked.names
        if asked.storage is None or is_uri(asked.storage) or not Path(asked.storage).is_absolute():
            raise ConfigError(
                "--storage: from outside a cluster the whole path of a folder is needed that all its nodes see"
            )
        environment = load_environment(env, asked.set_, trust=asked.trust)
        configured = load_policy_config(policy, asked.changes, trust=asked.trust)
        names = f"{Path(env).stem}.yaml", f"{Path(policy).stem}.yaml"
        if names[0] == names[1]:
            names = names[0], f"policy-{names[1]}"
        contents = environment.model_dump(mode="json"), configured.model_dump(mode="json", by_alias=True)
        del contents[1]["training"]["runners"]  # there, it would count as chosen
        files = {file: yaml.safe_dump(content, sort_keys=False) for file, content in zip(names, contents, strict=True)}
        arguments = [*names, *arguments, "--storage", asked.storage]
        if _chooses_runners(policy, asked.changes):
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
