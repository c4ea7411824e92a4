"""Values of agents are mixed as VDN and QMIX say, from one series of the team's choices at their own times."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.ddqn import make_learner, policy_config
from helpers.environments import ARRIVAL, make_env, small_environment
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from offload_rllib.algorithms.ddqn_learner import DISCOUNTS, RETURNS, WEIGHTS
from offload_rllib.algorithms.mixing import MixingLearner, chosen, joint_masks
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.envs.rllib import register_environments
from offload_rllib.envs.vector import vector_env
from offload_rllib.policies.mixer import Qmix, Vdn, joint_state, make_mixer
from offload_rllib.policies.module import QF_PREDS, MaskedQ
from offload_rllib.policies.network import INVALID_LOGIT
from offload_rllib.policies.saved import POLICY_FOLDER, load_saved_policy
from offload_rllib.policies.sharing import SHARED
from offload_rllib.rollout.replay import Sample
from offload_rllib.rollout.team import TeamView, split_team
from offload_rllib.rollout.transitions import Transitions
from offload_rllib.training.rllib_config import algorithm_config

KINDS = ["vdn", "qmix"]
AGENTS = 4


def plain_qmix(mixer: Qmix, values: np.ndarray, state: np.ndarray) -> float:
    """Return QMIX's value of one joint action, written out."""
    parts = {name: value.detach().numpy().astype(float) for name, value in mixer.state_dict().items()}

    def of(name: str, x: np.ndarray) -> np.ndarray:
        return parts[f"{name}.weight"] @ x + parts[f"{name}.bias"]

    units = len(parts["bias.bias"])
    total = 0.0
    for m in range(units):
        h = of("bias", state)[m]
        for i, value in enumerate(values):
            h += value * abs(of("weights", state)[i * units + m])
        total += (h if h > 0 else np.exp(h) - 1) * abs(of("last_weights", state)[m])
    return total + of("last_bias.2", np.maximum(of("last_bias.0", state), 0))[0]


def test_mixers_are_their_formulas() -> None:
    torch.manual_seed(0)
    mixer = make_mixer("qmix", agents=3, own_size=2, units=5)
    assert isinstance(mixer, Qmix)
    seen = torch.randn(7, 3, 4)
    values, state = 3 * torch.randn(7, 3), joint_state(seen, 2)
    assert (state[4] == torch.cat([seen[4, i, :2] for i in range(3)])).all()
    found = mixer(values, state).detach().numpy()
    for b in range(7):
        assert found[b] == pytest.approx(plain_qmix(mixer, values[b].numpy(), state[b].numpy()), rel=1e-6, abs=1e-6)
    vdn = make_mixer("vdn", agents=3, own_size=2, units=5)
    assert isinstance(vdn, Vdn)
    assert vdn(values, state).tolist() == pytest.approx([sum(row) for row in values.tolist()], abs=1e-6)
    assert not list(vdn.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_teams_value_rises_with_every_agents(kind: str) -> None:
    torch.manual_seed(1)
    mixer = make_mixer(kind, agents=4, own_size=3, units=8)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(0, 2)
    values, state = (5 * torch.randn(500, 4)).requires_grad_(), 4 * torch.randn(500, 12)
    slopes = torch.autograd.grad(mixer(values, state).sum(), values)[0]
    assert slopes.min() >= 0
    assert (slopes > 0).float().mean() > 0.9
    # So the agents' best actions are the best joint action: by trying all of them.
    own = torch.randn(4, 3)
    joint = list(itertools.product(range(3), repeat=4))
    mixed = torch.tensor([mixer(own[torch.arange(4), list(actions)], state[0]).item() for actions in joint])
    best = tuple(own.argmax(-1).tolist())
    assert mixed[joint.index(best)] == mixed.max()


def test_only_who_decides_has_a_choice() -> None:
    masks = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.int8)
    whole = joint_masks(masks, torch.tensor([2, 0]), 3)
    assert whole.tolist() == [[[1, 0, 0], [1, 0, 0], [1, 0, 1]], [[0, 1, 1], [1, 0, 0], [1, 0, 0]]]


def joint_sample(learner: Any, rows: int = 24, seed: int = 0) -> Sample:
    """Return random transitions of the team: who decides differs, and has masks that leave a choice."""
    rng = np.random.default_rng(seed)
    module = learner.module[SHARED].unwrapped()
    features, actions = module.observation_space["observations"].shape[0], int(module.action_space.n)

    def team() -> np.ndarray:
        seen = rng.uniform(-1, 1, (rows, module.agents * features)).astype(np.float32)
        return np.column_stack([seen, rng.integers(0, module.agents, rows).astype(np.float32)])

    def masks() -> np.ndarray:
        valid = (rng.random((rows, actions)) < 0.5).astype(np.int8)
        valid[np.arange(rows), rng.integers(1, actions, rows)] = valid[:, 0] = 1
        return valid

    valid = masks()
    return Sample(
        Transitions(
            observations=team(),
            masks=valid,
            actions=np.array([rng.choice(np.flatnonzero(mask)) for mask in valid]),
            returns=rng.normal(0, 2, rows).astype(np.float32),
            discounts=rng.uniform(0.3, 1, rows).astype(np.float32),
            next_observations=team(),
            next_masks=masks(),
        ),
        weights=rng.uniform(0.1, 1, rows).astype(np.float32),
        states=np.arange(rows),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_td_errors_are_those_of_a_plain_reference(kind: str) -> None:
    learner = make_learner(when="arrival", mixer=kind, dueling=True, target_update_every=10_000, lr=0.01)
    module = learner.module[SHARED].unwrapped()
    for seed in range(3):  # lets networks leave their targets behind
        learner.learn(SHARED, joint_sample(learner, seed=1 + seed))
    sample = joint_sample(learner)
    rows, own = sample.transitions, module._own_size
    assert 0 < own < module.observation_space["observations"].shape[0]

    def mixed(mixer: Any, values: list[float], seen: np.ndarray) -> float:
        state = np.concatenate([seen[i][:own] for i in range(AGENTS)])
        return plain_qmix(mixer, np.array(values), state) if kind == "qmix" else sum(values)

    def values_of(network: Any, seen: np.ndarray, decides: int, mask: np.ndarray) -> list[np.ndarray]:
        """Return each agent's values, one at a time; those without a task may only keep."""
        nothing = np.eye(1, len(mask), dtype=np.int8)[0]
        with torch.no_grad():
            return [
                network(torch.from_numpy(seen[i]), torch.from_numpy(mask if i == decides else nothing)).numpy()
                for i in range(AGENTS)
            ]

    expected = []
    for b in range(len(rows.actions)):
        (seen,), (decides,) = split_team(rows.observations[b : b + 1], AGENTS)
        (later,), (next_decides,) = split_team(rows.next_observations[b : b + 1], AGENTS)
        online = values_of(module.q, later, next_decides, rows.next_masks[b])[next_decides]
        target = values_of(module.target_q, later, next_decides, rows.next_masks[b])
        valid = np.flatnonzero(rows.next_masks[b])
        best = max(valid, key=lambda action, online=online: online[action])
        following = [float(v[best if i == next_decides else 0]) for i, v in enumerate(target)]
        now = values_of(module.q, seen, decides, rows.masks[b])
        present = [float(v[rows.actions[b] if i == decides else 0]) for i, v in enumerate(now)]
        y = rows.returns[b] + rows.discounts[b] * mixed(module.target_mixer, following, later)
        expected.append(y - mixed(module.mixer, present, seen))
    errors = learner.learn(SHARED, sample)
    assert errors == pytest.approx(expected, abs=1e-5, rel=1e-6)
    sizes, delta = np.abs(expected), 1.0
    losses = np.where(sizes <= delta, sizes**2 / 2, delta * (sizes - delta / 2))
    assert 0 < (sizes <= delta).sum() < len(sizes)
    assert learner._noted[SHARED][-1]["total_loss"].item() == pytest.approx((sample.weights * losses).mean(), rel=1e-5)


def test_learning_goes_on_from_a_saved_state_with_its_mixer() -> None:
    learner, again = (make_learner(when="arrival", mixer="qmix", lr=0.01) for _ in range(2))
    assert isinstance(learner, MixingLearner)
    for seed in range(4):
        learner.learn(SHARED, joint_sample(learner, seed=seed))
    mixer = learner.module[SHARED].unwrapped().mixer
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in mixer.parameters())
    again.set_state(learner.get_state())
    for seed in range(4, 8):  # past the next move of the targets
        errors = [one.learn(SHARED, joint_sample(one, seed=seed)) for one in (learner, again)]
        assert (errors[0] == errors[1]).all()


Move = tuple[int, tuple[int, int], float, int | None]


def game(kind: str, moves: list[Move], states: int, actions: int) -> Any:
    """Return what was learned of a game of two agents, by the learner's own loss: greedy actions, and mixed values.

    Args:
        kind: of the mixer.
        moves: state, joint action, reward, and the next state, or None at the end.
        states: how many there are; agents see which one, and who they are. In the first of several only agent 0 has a
            choice.
        actions: of either agent.
    """
    torch.manual_seed(0)
    size = states + 2
    module: Any = RLModuleSpec(
        module_class=MaskedQ,
        observation_space=spaces.Dict(
            {"observations": spaces.Box(0, 1, (size,)), "action_mask": spaces.Box(0, 1, (actions,), np.int8)}
        ),
        action_space=spaces.Discrete(actions),
        model_config={"hidden": (16,), "activation": "relu", "rows": (size, 0, 0)}
        | {"mixer": kind, "mixing_units": 8, "agents": 2},
    ).build()
    module.make_target_networks()

    def seen(which: list[int]) -> dict[str, torch.Tensor]:
        at = torch.eye(states)[which].unsqueeze(1).expand(-1, 2, -1)
        masks = torch.ones((len(which), 2, actions), dtype=torch.int8)
        if states > 1:
            masks[torch.tensor(which) == 0, 1, 1:] = 0
        return {"observations": torch.cat([at, torch.eye(2).expand(len(which), -1, -1)], -1), "action_mask": masks}

    first, joint, rewards, then = zip(*moves, strict=True)
    batch = {
        Columns.OBS: seen(list(first)),
        Columns.NEXT_OBS: seen([state or 0 for state in then]),
        Columns.ACTIONS: torch.tensor(joint),
        RETURNS: torch.tensor(rewards),
        DISCOUNTS: torch.tensor([0.0 if state is None else 1.0 for state in then]),
        WEIGHTS: torch.ones(len(first)),
    }
    learner: Any = SimpleNamespace(
        network=lambda _: module, note=lambda *_: None, TOTAL_LOSS_KEY="loss", _best=MixingLearner._best
    )
    optimizer = torch.optim.Adam([*module.q.parameters(), *module.mixer.parameters()], lr=0.02)
    for step in range(500):
        if step % 25 == 0:
            for network, target in module.get_target_network_pairs():
                target.load_state_dict(network.state_dict())
        loss = MixingLearner.compute_loss_for_module(
            learner,
            module_id=SHARED,
            config=SimpleNamespace(huber_delta=100.0),
            batch=batch,
            fwd_out=module.compute_q_values(batch),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        own = chosen(module.compute_q_values(batch)[QF_PREDS], batch[Columns.ACTIONS])
        mixed = module.mix(own, batch[Columns.OBS]["observations"])
        values = module.compute_q_values({Columns.OBS: seen(list(range(states)))})[QF_PREDS]
    return SimpleNamespace(greedy=values.argmax(-1).tolist(), mixed=mixed.tolist())


# The two-step game of the QMIX paper (section 5.1): agent 0 chooses the game that both then play.
SEVEN, EIGHT = [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]
TWO_STEPS: list[Move] = [
    (0, (0, 0), 0.0, 1),
    (0, (1, 0), 0.0, 2),
    *((1, (a, b), SEVEN[a][b], None) for a in range(2) for b in range(2)),
    *((2, (a, b), EIGHT[a][b], None) for a in range(2) for b in range(2)),
]


def test_qmix_finds_the_best_of_the_two_step_game_and_vdn_does_not() -> None:
    qmix, vdn = (game(kind, TWO_STEPS, states=3, actions=2) for kind in ("qmix", "vdn"))
    assert qmix.mixed == pytest.approx([7, 8, 7, 7, 7, 7, 0, 1, 1, 8], abs=0.1)
    assert qmix.greedy[0][0] == 1
    assert qmix.greedy[2] == [1, 1]
    # A sum that fits 0, 1, 1, 8 best is -1.5, 2.5, 2.5, 6.5 (least squares): less than 7.
    assert vdn.mixed == pytest.approx([7, 6.5, 7, 7, 7, 7, -1.5, 2.5, 2.5, 6.5], abs=0.1)
    assert vdn.greedy[0][0] == 0


def test_neither_finds_the_best_of_a_game_that_is_not_monotone() -> None:
    # Son et al., "QTRAN", arXiv 1905.05408, table 1: the best joint action is (0, 0), beside which all is worst.
    payoff = [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]
    moves: list[Move] = [(0, (a, b), payoff[a][b], None) for a in range(3) for b in range(3)]
    for kind in KINDS:
        found = game(kind, moves, states=1, actions=3)
        assert 0 not in found.greedy[0], kind
        assert found.mixed[0] < 0, kind


def test_the_teams_series_is_what_all_agents_saw_and_earned() -> None:
    environment = small_environment(decisions=ARRIVAL, reward={"scope": "team", "name": "delay", "scale": 0.5})
    env, other = make_env(environment, 2), make_env(environment, 2)
    view = TeamView(env)
    assert np.shares_memory(view._seen, view.observations)
    rng = np.random.default_rng(0)
    earned, passed, returns, decisions = np.zeros(2), np.zeros(2), np.zeros((2, 4)), 0
    view.begin(np.arange(2))
    while not env.truncated.any():
        view.look()
        seen, decides = split_team(view.observations, 4)
        assert (decides == env.deciding).all()
        for e in range(2):
            observations, masks = env.observe_all(e)
            assert (seen[e] == observations).all()
            assert (view.masks[e] == masks[decides[e]]).all()
            assert (seen[e, decides[e]] == env.observations[e]).all()
            assert (np.delete(masks, decides[e], 0) == [[1, 0, 0]] * 3).all()
            returns[e, other.deciding[e]] += other.rewards[e]
        earned, passed = earned + view.rewards, passed + view.elapsed_s
        assert passed == pytest.approx(env.time_s, abs=1e-9)
        actions = rng.integers(0, 3, 2)
        for one in (env, other):
            one.step(actions)
        decisions += 1
    assert decisions > 30
    for e in np.flatnonzero(env.truncated).tolist():
        observations, masks, rewards, elapsed_s = view.closing(e)
        assert (observations[0, :-1] == env.observe_all(e)[0].ravel()).all()
        assert masks.tolist() == [[1, 0, 0]]
        assert passed[e] + elapsed_s[0] == pytest.approx(40)
        every = returns[e] + other.closing(e)[2]
        # All agents earn the same over the episode: what the team does, counted between all decisions.
        assert earned[e] + rewards[0] == pytest.approx(every[0], rel=1e-5)
        assert every == pytest.approx(every[0], rel=1e-5)
        assert every[0] < 0


def settings(mixer: str | None, **changes: Any) -> dict[str, Any]:
    return {"mixer": mixer, "learner": "torch", "gamma": 0.9, "n_step": 2} | changes


def trained(environment: dict[str, Any], algorithm: dict[str, Any], tmp_path: Path | None = None) -> Any:
    """Return metrics and weights of three iterations, with the environments of the runner."""
    register_environments()
    built = algorithm_config(load_environment(environment), policy_config(algorithm), cpus=2).build_algo()
    try:
        figures = [built.train() for _ in range(3)]
        runner = built.env_runner_group.local_env_runner
        if tmp_path is not None:
            built.save_checkpoint(str(tmp_path))
        replay = built._replay[SHARED]
        return SimpleNamespace(
            figures=figures[-1],
            weights={name: value.copy() for name, value in built.learner_group.get_weights()[SHARED].items()},
            scope=runner.env.batch.scenario.config.reward.scope,
            acting=set(runner.module[SHARED].state_dict()),
            drawn=replay.sample(50).transitions,
        )
    finally:
        built.stop()


@pytest.mark.usefixtures("ray_session")
def test_with_one_agent_vdn_is_ddqn_to_the_last_bit() -> None:
    environment = small_environment(
        decisions=ARRIVAL, agents={"nodes": ["a"], "others": "local"}, reward={"scope": "team"}
    )
    plain, mixed = (trained(environment, settings(mixer)) for mixer in (None, "vdn"))
    assert (plain.drawn.observations == mixed.drawn.observations[:, :-1]).all()
    assert (mixed.drawn.observations[:, -1] == 0).all()
    for name in ("masks", "actions", "returns", "discounts"):
        assert (getattr(plain.drawn, name) == getattr(mixed.drawn, name)).all(), name
    for key in ("updates_lifetime", "q_mean", "td_error_mean"):
        assert plain.figures["learners"][SHARED][key] == mixed.figures["learners"][SHARED][key]
    assert plain.weights.keys() == mixed.weights.keys()
    for name, value in plain.weights.items():
        assert (value == mixed.weights[name]).all(), name


@pytest.mark.usefixtures("ray_session")
def test_it_trains_for_the_teams_reward_and_keeps_the_agents_networks_alone(tmp_path: Path) -> None:
    environment = small_environment(decisions=ARRIVAL, reward={"scope": "own"})
    found = trained(environment, settings("qmix"), tmp_path)
    assert found.scope == "team"
    assert found.figures["learners"][SHARED]["updates_lifetime"] > 20
    assert np.isfinite(found.figures["learners"][SHARED]["total_loss"])
    assert any(name.startswith("mixer.") for name in found.weights)
    assert all(name.startswith("q.") for name in found.acting)
    assert found.drawn.observations.shape[1] == AGENTS * vector_env(environment, 1).observation_size + 1
    assert set(found.drawn.observations[:, -1]) == {0, 1, 2, 3}
    assert np.isfinite(found.drawn.returns).all()
    saved = load_saved_policy(tmp_path / POLICY_FOLDER)
    env = make_env(environment, 4)
    kept = saved.networks[SHARED]
    assert {f"q.{name}" for name in kept.state_dict()} == found.acting
    with torch.no_grad():
        values = kept(torch.from_numpy(env.observations), torch.from_numpy(env.masks))
    assert ((values == INVALID_LOGIT) == (torch.from_numpy(env.masks) == 0)).all()
    assert (saved.on(env)(env.observations, env.masks, agents=env.deciding) == values.argmax(-1).numpy()).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sharing": "per_node"}, "mixer: qmix does not go with sharing: per_node; accepted: shared"),
        ({"training": {"env_runner": "stock"}}, "mixer: qmix does not go with training.env_runner: stock"),
        ({"training": {"learners": 2}}, "training.learners"),
        ({"network": {"memory": 4}}, "network.memory"),
        ({"algorithm": {"name": "PPO", "mixer": "qmix"}}, "mixer"),
        ({"algorithm": {"name": "DDQN", "mixer": "qplex"}}, "'vdn' or 'qmix'"),
    ],
)
def test_what_does_not_go_with_a_mixer_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_policy_config({"algorithm": {"name": "DDQN", "mixer": "qmix"}} | changes)


def test_choices_at_intervals_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"algorithm.mixer: vdn: .*decisions.when: interval; accepted: arrival"):
        algorithm_config(load_environment(small_environment()), policy_config({"mixer": "vdn"}), cpus=2)
