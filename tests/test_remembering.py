"""Policies that remember: states move with every decision of their agent, the same in acting, learning and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.environments import ARRIVAL, make_env, small_environment
from helpers.policies import kept
from helpers.sampling import runner_config
from ray.rllib.core.columns import Columns
from typer.testing import CliRunner

from offload_rllib.algorithms.sequences import sequence_orders, sequences_of
from offload_rllib.cli import app
from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.config.policy import Network
from offload_rllib.envs.vector import held_out_keys
from offload_rllib.evaluation.players import Contender
from offload_rllib.policies.export import export_onnx
from offload_rllib.policies.module import MEMORY, SEQUENCES
from offload_rllib.policies.portable import PortablePolicy
from offload_rllib.policies.remembering import RememberingActor
from offload_rllib.rollout.agent_steps import AgentSteps
from offload_rllib.rollout.runner import BatchedEnvRunner
from offload_rllib.testbed.recorded import brain_of
from offload_rllib.training.rllib_config import algorithm_config

UNITS = 5
ENVIRONMENT = small_environment(decisions=ARRIVAL)
NETWORK = {"hidden": (8,), "activation": "tanh", "memory": UNITS}


def make_runner(sharing: str = "shared", envs: int = 3) -> Any:
    """Return a runner whose policies are far from uniform."""
    config = runner_config(sharing, envs=envs, env=ENVIRONMENT).rl_module(model_config=NETWORK)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    torch.manual_seed(3)
    for module in runner.module.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
    return runner


def policy_config(name: str = "PPO", **keys: Any) -> Any:
    """Return a policy that remembers, trained in seconds."""
    algorithm = {"name": name, "batch_env_steps": 160, "minibatch_steps": 40, "memory_steps": 4}
    sections = {"algorithm": algorithm, "network": {"hidden": [8], "memory": UNITS}}
    training = {"runners": 0, "envs_per_runner": 4, "env_steps": 320, "seed": 3}
    content: dict[str, Any] = {**sections, "training": training}
    for key, value in keys.items():
        section, _, name = key.partition("__")
        content[section] = content[section] | {name: value}
    return load_policy_config(content)


def make_learner(policy: Any) -> Any:
    from offload_rllib.envs.spaces import action_space, observation_space

    env = make_env(ENVIRONMENT)
    config = algorithm_config(load_environment(ENVIRONMENT), policy, cpus=2)
    return config.build_learner(env=None, spaces={"shared": (observation_space(env), action_space(env))})


def gated(weights: dict[str, np.ndarray], inputs: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return the next state of a gated recurrent unit, written out (Cho et al., arXiv 1406.1078; torch's order)."""
    units = len(state)
    of_inputs = weights["cell.weight_ih"] @ inputs + weights["cell.bias_ih"]
    of_state = weights["cell.weight_hh"] @ state + weights["cell.bias_hh"]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    forget = sigmoid(of_inputs[:units] + of_state[:units])
    keep = sigmoid(of_inputs[units : 2 * units] + of_state[units : 2 * units])
    new = np.tanh(of_inputs[2 * units :] + forget * of_state[2 * units :])
    return (1 - keep) * new + keep * state


def decided(weights: dict[str, np.ndarray], seen: np.ndarray, time: float, state: np.ndarray) -> Any:
    """Return logits and the next state for one decision of a perceptron with one hidden layer, written out."""
    features = np.tanh(weights["features.0.weight"] @ seen + weights["features.0.bias"])
    state = gated(weights, np.append(features, time), state)
    hidden = np.tanh(weights["actor.scores.0.weight"] @ np.concatenate([state, seen]) + weights["actor.scores.0.bias"])
    return weights["actor.scores.2.weight"] @ hidden + weights["actor.scores.2.bias"], state


@pytest.mark.parametrize("sharing", ["shared", "mapping"])
def test_states_are_those_of_a_plain_loop_over_each_agents_decisions(sharing: str) -> None:
    runner = make_runner(sharing)
    samples = [runner.sample(num_timesteps=300, explore=True) for _ in range(3)]
    compared = carried = restarted = closed = 0
    for module_id in runner.module.keys():  # noqa: SIM118 - RLlib's modules are no mapping
        actor = runner.module[module_id].unwrapped().actor
        weights = {key: value.double().numpy() for key, value in actor.state_dict().items()}
        states: dict[tuple[int, str], Any] = {}
        for parts in samples:
            steps = next(part for part in parts if part.module_id == module_id)
            assert steps.memory is not None
            rows = len(steps)
            for i in range(rows):
                who = int(steps.environment[i]), steps.agents[steps.agent[i]]
                state, elapsed_s, known = states.get(who, (np.zeros(UNITS), None, False))
                carried += known and i < 3
                if known:
                    assert steps.memory[i, 0] == pytest.approx(np.log1p(elapsed_s), abs=1e-6)
                else:
                    restarted += 1
                np.testing.assert_allclose(steps.memory[i, 1:], state, rtol=1e-6, atol=1e-6)
                seen = steps.observations[i].astype(np.float64)
                logits, after = decided(weights, seen, float(steps.memory[i, 0]), state)
                valid = steps.masks[i] == 1
                expected = logits[steps.actions[i]] - np.log(np.exp(logits[valid]).sum())
                assert steps.log_probabilities[i] == pytest.approx(expected, abs=2e-6)
                states[who] = after, float(steps.elapsed_s[i]), True
                closing = int(steps.following[i]) - rows
                if closing >= 0 and steps.ended[closing]:
                    np.testing.assert_allclose(steps.memory[rows + closing, 1:], after, rtol=1e-6, atol=1e-6)
                    assert steps.memory[rows + closing, 0] == pytest.approx(np.log1p(steps.elapsed_s[i]), abs=1e-6)
                    del states[who]
                    closed += 1
                compared += 1
    assert compared > 400
    assert min(carried, restarted - 6, closed) > 0


@pytest.mark.parametrize("longest", [1, 3, 1000])
def test_sequences_are_unbroken_pieces_of_each_agents_rows(longest: int) -> None:
    rng = np.random.default_rng(longest)
    owner = rng.integers(0, 4, 60)
    following = np.array([next((j for j in range(i + 1, 60) if owner[j] == owner[i]), 60 + i) for i in range(60)])
    order, sequences = sequences_of(following, longest)
    assert sorted(order.tolist()) == list(range(60))
    for number in range(sequences.max() + 1):
        rows = order[sequences == number]
        assert 1 <= len(rows) <= longest
        np.testing.assert_array_equal(following[rows[:-1]], rows[1:])
    if longest > 60:
        assert sequences.max() + 1 == 4
    drawn = [list(sequence_orders(torch.from_numpy(sequences), 3, 2, np.random.default_rng(seed))) for seed in (0, 1)]
    for orders in drawn:
        together = torch.cat(orders).tolist()
        assert sorted(together) == sorted(list(range(60)) * 2)
        for places in orders:  # whole sequences, in the order of time
            numbers, counts = torch.unique_consecutive(torch.from_numpy(sequences)[places], return_counts=True)
            assert len(set(numbers.tolist())) == len(numbers)
            assert counts.tolist() == [int((sequences == number).sum()) for number in numbers.tolist()]
    assert [places.tolist() for places in drawn[0]] != [places.tolist() for places in drawn[1]]


@pytest.mark.parametrize("kind", ["mlp", "pointer", "attention"])
def test_logits_and_gradients_along_sequences_are_those_of_one_decision_after_the_other(kind: str) -> None:
    env = make_env(ENVIRONMENT)
    torch.manual_seed(1)
    actor = RememberingActor(
        env.observation_size, env.num_actions, (6,), "tanh", kind, env.layout.blocks, 2, memory=UNITS
    ).double()
    lengths = [3, 1, 4]
    rows = sum(lengths)
    observations = torch.randn(rows, env.observation_size, dtype=torch.double)
    masks = torch.ones(rows, env.num_actions, dtype=torch.int8)
    memory = torch.randn(rows, 1 + UNITS, dtype=torch.double)
    weights = torch.randn(rows, env.num_actions, dtype=torch.double)
    sequences = torch.repeat_interleave(torch.tensor([5, 6, 9]), torch.tensor(lengths))
    together = actor.along(observations, masks, memory, sequences)
    (together * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in actor.parameters() if parameter.grad is not None]
    actor.zero_grad()
    one_by_one = []
    for number in (5, 6, 9):
        places = (sequences == number).nonzero().flatten()
        state = memory[places[0], 1:]  # a constant: behind the beginning of a sequence no gradient goes
        for i in places.tolist():
            remembered = torch.cat([memory[i, :1], state]).unsqueeze(0)
            logits, states = actor(observations[i : i + 1], masks[i : i + 1], remembered)
            state = states[0]
            one_by_one.append(logits[0])
    torch.testing.assert_close(together, torch.stack(one_by_one), rtol=1e-9, atol=1e-9)
    (torch.stack(one_by_one) * weights).sum().backward()
    for ours, parameter in zip(gradients, actor.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_before_the_first_gradient_step_learners_find_the_logits_of_acting(name: str) -> None:
    runner = make_runner(envs=4)
    learner = make_learner(policy_config(name))
    learner.network("shared").load_state_dict(runner.module["shared"].unwrapped().state_dict(), strict=False)
    samples = [runner.sample(num_timesteps=200, explore=True)[0] for _ in range(2)]
    config = learner.config.get_config_for_module("shared")
    rows = learner.rows_of("shared", samples, config)
    assert len(rows[SEQUENCES]) == sum(map(len, samples))
    assert int(torch.unique_consecutive(rows[SEQUENCES], return_counts=True)[1].max()) == 4
    outputs = learner.module["shared"].forward_train(rows)[Columns.ACTION_DIST_INPUTS]
    taken = outputs.log_softmax(-1).gather(-1, rows[Columns.ACTIONS].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(taken, rows[Columns.ACTION_LOGP], rtol=1e-5, atol=1e-5)
    # The critic sees what was remembered before each decision.
    critic = learner.network("shared").critic
    with torch.no_grad():
        expected = critic(torch.cat([rows[MEMORY], rows[Columns.OBS]["observations"]], -1))
    values = np.concatenate([learner.values_of("shared", steps)[: len(steps)] for steps in samples])
    np.testing.assert_allclose(np.sort(values), np.sort(expected.numpy()), rtol=1e-5, atol=1e-5)
    before = [parameter.detach().clone() for parameter in learner.network("shared").parameters()]
    learner.update(episodes=samples, num_epochs=2, minibatch_size=40)
    after = list(learner.network("shared").parameters())
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


CUE_STEPS, EPISODES = 5, 64


def cue_steps(module: Any, rng: np.random.Generator, features: int, actions: int) -> tuple[AgentSteps, float]:
    """Return episodes of a game in which a cue is seen once, and paid for at every decision that repeats it."""
    cue = rng.integers(0, 2, EPISODES)
    shape = (CUE_STEPS, EPISODES)
    seen = np.zeros((*shape, features), np.float32)
    seen[0, :, 0] = 2.0 * cue - 1
    masks = np.zeros((*shape, actions), np.int8)
    masks[..., :2] = 1
    since_s = rng.uniform(0.1, 3.0, shape)
    memory = np.zeros((*shape, 1 + UNITS), np.float32)
    chosen, logp = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    state = torch.zeros(EPISODES, UNITS)
    for t in range(CUE_STEPS):
        time = torch.from_numpy(np.log1p(since_s[t])[:, None].astype(np.float32))
        remembered = torch.cat([time, state], -1)
        memory[t] = remembered.numpy()
        with torch.no_grad():
            logits, state = module.actor(torch.from_numpy(seen[t]), torch.from_numpy(masks[t]), remembered)
        logits = logits.log_softmax(-1).numpy()
        chosen[t] = rng.random(EPISODES) < np.exp(logits[:, 1])
        logp[t] = logits[np.arange(EPISODES), chosen[t]]
    rewards = (chosen == cue).astype(np.float32)
    rows = CUE_STEPS * EPISODES
    return AgentSteps(
        module_id="shared",
        agents=("a",),
        agent=np.zeros(rows + EPISODES, np.int64),
        environment=np.tile(np.arange(EPISODES), CUE_STEPS + 1),
        observations=seen.reshape(rows, -1),
        masks=masks.reshape(rows, -1),
        actions=chosen.ravel(),
        log_probabilities=logp.ravel(),
        rewards=rewards.ravel(),
        elapsed_s=np.ones(rows),
        following=EPISODES + np.arange(rows),
        closing_observations=np.zeros((EPISODES, features), np.float32),
        closing_masks=np.ones((EPISODES, actions), np.int8),
        ended=np.ones(EPISODES, np.bool_),
        env_steps=rows,
        memory=np.concatenate([memory.reshape(rows, -1), np.zeros((EPISODES, 1 + UNITS), np.float32)]),
    ), float(rewards.mean())


@pytest.mark.parametrize("name", ["PPO", pytest.param("A2C", marks=pytest.mark.slow)])
def test_a_cue_that_is_seen_once_is_remembered(name: str) -> None:
    keys = {"algorithm__lr": 2e-2, "algorithm__gamma": 0.0, "algorithm__memory_steps": CUE_STEPS}
    learner = make_learner(policy_config(name, **keys))
    module, rng = learner.network("shared"), np.random.default_rng(0)
    features, actions = module.observation_space["observations"].shape[0], int(module.action_space.n)
    shares = []
    for _ in range(60):
        steps, share = cue_steps(module, rng, features, actions)
        shares.append(share)
        learner.update(episodes=[steps], num_epochs=2 if name == "PPO" else 1, minibatch_size=80)
    # Without a memory only the first of five decisions can know: 0.6 at best.
    assert shares[0] < 0.65
    assert np.mean(shares[-5:]) > 0.97


def test_a_saved_policy_remembers_as_the_runner_does(tmp_path: Path) -> None:
    env = make_env(ENVIRONMENT, 4)
    saved = kept(tmp_path, env, network=Network.model_validate({"hidden": (8,), "memory": UNITS}), decides="arrival")
    with torch.no_grad():  # so that actions depend on what is remembered
        saved.networks["shared"].actor.scores[0].weight[:, :UNITS] *= 8.0  # type: ignore[union-attr]
    runner = make_runner(envs=4)
    runner.module["shared"].unwrapped().actor.load_state_dict(saved.networks["shared"].state_dict())
    sample = runner.sample(num_timesteps=400, explore=False)[0]
    env.reset(first_keys(runner, 4))
    policy = saved.on(env)
    expected: dict[tuple[int, int], list[int]] = {}
    for action, e, agent in zip(sample.actions, sample.environment, sample.agent, strict=False):
        expected.setdefault((int(e), int(agent)), []).append(int(action))
    found: dict[tuple[int, int], list[int]] = {who: [] for who in expected}
    other = 0
    while not env.truncated.any():
        actions = policy(env.observations, env.masks, agents=env.deciding)
        again = policy(env.observations, env.masks, agents=env.deciding)
        np.testing.assert_array_equal(actions, again)  # asked twice, remembered once
        for e in range(4):
            found[e, int(env.deciding[e])].append(int(actions[e]))
        other += int((saved.on(env)(env.observations, env.masks, agents=env.deciding) != actions).sum())
        env.step(actions)
    assert other > 0, "decisions do not depend on what is remembered"
    compared = 0
    for who, mine in found.items():
        both = min(len(mine), len(expected[who]))
        assert mine[:both] == expected[who][:both]
        compared += both
    assert compared > 100


@pytest.mark.parametrize("kind", ["mlp", "pointer"])
def test_nodes_without_torch_remember_the_same(kind: str, tmp_path: Path) -> None:
    env = make_env(ENVIRONMENT)
    network = Network.model_validate({"kind": kind, "hidden": (8, 6), "memory": UNITS})
    saved = kept(tmp_path, env, network=network, rows=env.layout.blocks, decides="arrival")
    brain = brain_of(Contender("mine", tmp_path), env, 0)
    actor, node = saved.networks["shared"], PortablePolicy(brain.shape, brain.weights["shared"])
    rng, state, elapsed_s, decided_s = np.random.default_rng(0), torch.zeros(1, UNITS), 0.0, 0.0
    for step in range(12):
        now_s = decided_s + rng.exponential()
        elapsed_s, decided_s = now_s - decided_s, now_s
        seen = rng.uniform(-1, 1, env.observation_size).astype(np.float32)
        mask = np.array([1, step % 4 > 0, 1 if step % 4 else 0], np.int8)  # sometimes there is no choice
        remembers = torch.cat([torch.tensor([[np.log1p(elapsed_s)]], dtype=torch.float32), state], -1)
        with torch.no_grad():
            logits, state = actor(torch.from_numpy(seen[None]), torch.from_numpy(mask[None]), remembers)
        assert node(seen, mask, now_s=now_s) == int(logits.argmax())
        np.testing.assert_allclose(node._state, state[0].numpy(), rtol=1e-5, atol=1e-6)


def test_a_testbed_names_the_networks_that_it_has(tmp_path: Path) -> None:
    env = make_env(ENVIRONMENT)
    network = Network.model_validate({"kind": "attention", "hidden": (8,)})
    kept(tmp_path, env, network=network, rows=env.layout.blocks, decides="arrival")
    with pytest.raises(ConfigError, match=r"network\.kind: attention; accepted: mlp, pointer"):
        brain_of(Contender("mine", tmp_path), env, 0)


def first_keys(runner: Any, count: int) -> np.ndarray:
    """Return the keys of a runner's first episodes."""
    from offload_rllib.envs.episode_keys import training_key

    seeds = [(runner._seed or 0) + e for e in range(count)]
    return np.array([training_key(runner._root_seed, 0, seed, 0) for seed in seeds], np.uint64)


def test_an_episode_begins_without_memories(tmp_path: Path) -> None:
    env = make_env(ENVIRONMENT, 2)
    saved = kept(tmp_path, env, network=Network.model_validate({"hidden": (8,), "memory": UNITS}), decides="arrival")
    policy = saved.on(env)
    played = []
    for _ in range(2):
        env.reset(held_out_keys(1, 2))
        actions = []
        while not env.truncated.all():
            actions.append(policy(env.observations, env.masks, agents=env.deciding).tolist())
            env.step(np.array(actions[-1]))
        played.append(actions)
    assert played[0] == played[1]


@pytest.mark.slow
def test_an_exported_policy_returns_what_it_remembers(tmp_path: Path) -> None:
    env = make_env(ENVIRONMENT)
    saved = kept(tmp_path, env, network=Network.model_validate({"hidden": (8,), "memory": UNITS}), decides="arrival")
    path = export_onnx(saved, tmp_path / "policy.onnx")["shared"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        given = {
            "observations": rng.normal(size=(batch, env.observation_size)).astype(np.float32),
            "action_mask": np.ones((batch, env.num_actions), np.int8),
            "memory": rng.normal(size=(batch, 1 + UNITS)).astype(np.float32),
        }
        scores, actions, states = session.run(["scores", "actions", "states"], given)
        with torch.no_grad():
            logits, after = saved.networks["shared"](*(torch.from_numpy(part) for part in given.values()))
        np.testing.assert_allclose(np.asarray(scores), logits.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.asarray(states), after.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(actions), logits.argmax(-1).numpy())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"algorithm__critic": "central"}, "algorithm.critic: central; accepted: local"),
        ({"training__env_runner": "stock"}, "training.env_runner: stock; accepted: batched"),
        ({"training__imitate": "local"}, "training.imitate: local; accepted: null"),
        ({"training__learners": 2}, "training.learners: 2; accepted: 0 or 1"),
        ({"network__module": "mine:Module"}, "network.module: mine:Module; accepted: null"),
    ],
)
def test_what_does_not_go_with_a_memory_is_rejected(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.memory \(5\) does not go with " + message):
        policy_config(**keys)


@pytest.mark.parametrize("algorithm", ["ddqn", "appo"])
def test_other_algorithms_have_no_memory(algorithm: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm.name: {algorithm.upper()}; accepted: PPO, A2C"):
        load_policy_config(algorithm, ["network.memory=4"])


def test_where_nothing_is_remembered_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.memory \(5\).*decisions\.when: interval; accepted: arrival"):
        algorithm_config(load_environment(small_environment()), policy_config(), cpus=2)
    env = make_env(ENVIRONMENT)
    saved = kept(tmp_path, env, network=Network.model_validate({"hidden": (8,), "memory": UNITS}), decides="arrival")
    with pytest.raises(ValueError, match=r"let it play an environment, with load_policy\(\.\.\.\)\.on\(env\)"):
        saved(env.observations, env.masks, agents=env.deciding)
    with pytest.raises(ValueError, match="has 1 pending decisions, got 2 rows"):
        saved.on(env)(np.repeat(env.observations, 2, 0), np.repeat(env.masks, 2, 0), agents=np.zeros(2, np.int64))
    result = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert "network.memory (5): a service keeps nothing between requests; accepted: 0" in str(result.exception)
    module = make_runner().module["shared"]
    batch = {Columns.OBS: {"observations": torch.zeros(1, env.observation_size), "action_mask": torch.ones(1, 3)}}
    with pytest.raises(ConfigError, match="only this package's runner and learners"):
        module.forward_inference(batch)
