"""What broadcasts tell of a node's last decision, what it costs, and the embedding that networks read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.environments import at_once, make_env, refused, small_environment
from helpers.information import what_is_known

from offload_rllib.config import ConfigError, load_environment, load_policy_config
from offload_rllib.envs.layout import FEATURES, ROW, Blocks
from offload_rllib.envs.outlook import NUMBERS
from offload_rllib.policies.hearing import Hearing
from offload_rllib.policies.network import KINDS, OF_ROWS, Actor, CentralCritic, Critic, QNetwork
from offload_rllib.policies.pointer import FULL_ROWS
from offload_rllib.policies.remembering import RememberingActor
from offload_rllib.policies.saved import load_saved_policy, packed, save_policies, unpacked
from offload_rllib.policies.sharing import SHARED
from offload_rllib.scenario import build_scenario
from offload_rllib.simulator.state import _spread
from offload_rllib.simulator.types import OUTLOOK
from offload_rllib.training.rllib_config import algorithm_config

EMBEDDING = 3


def _environment(**information: Any) -> dict[str, Any]:
    return at_once(information={"embedding": EMBEDDING} | information)


def _seen(env: Any) -> dict[str, float]:
    """Return what the deciding agent of environment 0 sees, by name."""
    return dict(zip(env.layout.names, env.observations[0].tolist(), strict=True))


def _outlook(seen: dict[str, float], destinations: int) -> dict[str, float]:
    """Return the outlook of an agent that sees this, by the names of its numbers."""
    found = {}
    for feature in FEATURES:
        block = {"here": "row_0"}.get(feature.block, feature.block)
        if feature.block == ROW:
            rows = [seen[f"row_{row}.{feature.name}"] for row in range(1, 1 + destinations)]
            found[f"outlook_mean_{feature.name}"] = float(np.mean(rows))
            found[f"outlook_least_{feature.name}"] = min(rows)
        else:
            found[f"outlook_{feature.block}_{feature.name}"] = seen[f"{block}.{feature.name}"]
    return found


@pytest.mark.parametrize(
    ("interval_s", "latency_s", "extra"),
    [(1.0, 0.05, {}), (0.4, 1.3, {}), (5.0, 0.0, {"reject": True}), (0.0, 0.05, {})],
)
def test_a_broadcast_tells_what_its_sender_saw_at_its_last_decision_before_it(
    interval_s: float, latency_s: float, extra: dict[str, Any]
) -> None:
    information: dict[str, Any] = {"interval_s": interval_s} if interval_s else {"kind": "fresh"}
    law = {"time_to_failure_s": {"exponential": 15}, "time_to_repair_s": {"exponential": 3}}
    environment = _environment(**information) | {"failures": {"laws": [law]}}
    environment["decisions"] |= extra
    environment["links"]["latency_s"] = latency_s
    env = make_env(environment)
    rng = np.random.default_rng(0)
    told: dict[str, list[tuple[float, dict[str, float]]]] = {}
    heard = empty = 0
    while not env.truncated.all():
        agent, now_s, seen = int(env.deciding[0]), float(env.time_s[0]), _seen(env)
        destinations = env.destinations_of(0, agent)[1:]
        for row, name in enumerate(destinations, start=1):
            known = what_is_known(env.scenario.arrays, env.state, 0, agent, row)
            sent_s = now_s - known[3]
            # Before the first broadcast the age is the time of the episode.
            before = [outlook for at_s, outlook in told.get(name, []) if at_s <= sent_s + 1e-9 and sent_s > 0]
            start = f"row_{row}.outlook_"
            shown = {key.partition(".")[2]: value for key, value in seen.items() if key.startswith(start)}
            age = shown.pop("outlook_age")
            if not before:
                assert age == 0.0
                assert not any(shown.values())
                empty += 1
                continue
            assert shown == pytest.approx(before[-1], abs=1e-6)
            decided_s = max(at_s for at_s, _ in told[name] if at_s <= sent_s + 1e-9)
            scale = float(env.scenario.arrays.settings[0]["time_scale_s"])
            assert age == pytest.approx((now_s - decided_s) / (scale + now_s - decided_s), abs=1e-6)
            heard += 1
        told.setdefault(env.agents[agent], []).append((now_s, _outlook(seen, len(destinations))))
        env.step((rng.random(env.masks.shape) * env.masks).argmax(-1))
    assert heard > 50
    assert empty > 0


def test_sizes_of_simulator_and_layout_agree() -> None:
    assert OUTLOOK == 1 + NUMBERS
    env = make_env(_environment())
    assert env.layout.blocks == Blocks(11, 7, 12 + 1 + NUMBERS, NUMBERS, EMBEDDING)
    assert make_env(at_once()).layout.blocks == Blocks(11, 7, 12)


def test_an_embedding_is_paid_for_in_bits() -> None:
    for embedding, bits in ((0, 100.0), (1, 100.0 + 64.0), (8, 100.0 + 288.0)):
        information = {"embedding": embedding, "message_bits": 100.0}
        links = build_scenario(load_environment(at_once(information=information))).arrays.link
        assert links["broadcast_delay_s"] == pytest.approx(0.05 + bits / 1e6)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"decisions": {"when": "interval"}}, [], "embedding: 3 needs decisions at arrivals"),
        ({}, ["observe=paper"], "embedding: 3 needs agents that see it.*it is paper"),
        ({}, ["observe=[queue,task]"], "needs agents that see it.*it is queue, task"),
        ({}, ["information.embedding=257"], "information.embedding"),
        ({}, ["information.embedding=1.5"], "information.embedding"),
    ],
)
def test_what_does_not_go_with_embeddings_is_refused(
    changes: dict[str, Any], overrides: list[str], message: str
) -> None:
    refused(_environment() | changes, overrides, message)


def test_groups_can_be_chosen_beside_the_embedding() -> None:
    full, part = make_env(_environment()), make_env(_environment() | {"observe": ["queue", "embedding"]})
    assert part.layout.blocks == Blocks(0, 1, 1 + 1 + NUMBERS, NUMBERS, EMBEDDING)
    columns = [full.layout.names.index(name) for name in part.layout.names]
    for _ in range(40):
        assert (part.observations == full.observations[:, columns]).all()
        full.step(full.masks.argmin(-1) % 3)
        part.step(part.masks.argmin(-1) % 3)


def test_outlooks_that_are_remembered_move_when_there_is_room_for_more() -> None:
    kept = np.arange(2 * 1 * 2 * 3, dtype=np.float32).reshape(2, 1, 2, 3)
    wider = _spread(kept, 4, np.array([[3], [1]]))
    assert wider.shape == (2, 1, 4, 3)
    # Turns 1 and 2 of the first, turn 0 of the second.
    assert (wider[0, 0, 1] == kept[0, 0, 1]).all()
    assert (wider[0, 0, 2] == kept[0, 0, 0]).all()
    assert (wider[1, 0, 0] == kept[1, 0, 0]).all()
    assert not wider[0, 0, [0, 3]].any()
    assert not wider[1, 0, 1:].any()


BLOCKS = Blocks(*FULL_ROWS[:2], 2 + 5, outlook=5, embedding=EMBEDDING)


def _observations(batch: int, rows: int) -> torch.Tensor:
    return torch.rand(batch, BLOCKS.first + BLOCKS.here + (rows - 1) * BLOCKS.row) * 2 - 1


def test_an_embedding_is_a_few_numbers_of_each_outlook() -> None:
    torch.manual_seed(0)
    hearing, observations = Hearing(BLOCKS), _observations(4, 4)
    observations[:, -BLOCKS.row :] = 0.0
    made = hearing(observations)
    assert made.shape[1] == hearing.size(observations.shape[1]) == 18 + 3 * (2 + EMBEDDING)
    weight = hearing.embedding.weight.detach().numpy()
    rows = observations[:, 18:].numpy().reshape(4, 3, 7)
    expected = np.concatenate([rows[..., :2], np.tanh(rows[..., 2:] @ weight.T)], -1)
    assert (made[:, :18] == observations[:, :18]).all()
    assert made[:, 18:].detach().numpy() == pytest.approx(expected.reshape(4, -1), abs=1e-6)
    assert not made[:, -5:].any()  # padding stays padding


@pytest.mark.parametrize("kind", KINDS)
def test_networks_read_no_more_of_an_outlook_than_its_embedding(kind: str) -> None:
    torch.manual_seed(1)
    observations, masks = _observations(6, 4), torch.ones(6, 4)
    size = observations.shape[1]
    shape: dict[str, Any] = {"hidden": (8, 8), "activation": "tanh", "kind": kind, "rows": BLOCKS, "heads": 2}
    central = CentralCritic(size, **shape)
    for network, inputs in (
        (Actor(size, 4, **shape), (observations, masks)),
        (QNetwork(size, 4, **shape, dueling=True), (observations, masks)),
        (Critic(size, **shape), (observations,)),
        (central, (observations, observations)),
    ):
        with torch.no_grad():
            for weights in network.parameters():
                weights.normal_(std=0.5)
            hearing = [part for part in network.modules() if isinstance(part, Hearing)]
            assert len(hearing) == (2 if isinstance(network, QNetwork) else 1)
            for part in hearing[1:]:
                part.embedding.weight.copy_(hearing[0].embedding.weight)
            # A change of an outlook of 5 numbers that its embedding of 3 is blind to.
            blind = torch.linalg.svd(hearing[0].embedding.weight).Vh[-1]
            before = network(*inputs)
            for change, same in ((blind, True), (hearing[0].embedding.weight[0], False)):
                changed = observations.clone()
                changed[:, 18 + 2 : 18 + 7] += change
                others = [changed if each is observations else each for each in inputs]
                equal = torch.isclose(network(*others), before, rtol=0, atol=1e-5)
                assert equal.all() if same else not equal.all()


@pytest.mark.parametrize("kind", OF_ROWS)
def test_permuting_destinations_permutes_scores(kind: str) -> None:
    torch.manual_seed(2)
    observations = _observations(5, 4)
    actor = Actor(observations.shape[1], 4, (8,), "tanh", kind, BLOCKS, 2)
    rows = observations[:, 18:].unflatten(-1, (3, 7))[:, [2, 0, 1]]
    permuted = torch.cat([observations[:, :18], rows.flatten(1)], 1)
    masks = torch.ones(5, 4)
    assert torch.allclose(actor(observations, masks)[:, [0, 3, 1, 2]], actor(permuted, masks), atol=1e-6)


SMALL: dict[str, dict[str, Any]] = {
    "PPO": {"batch_env_steps": 160, "minibatch_steps": 64},
    "DDQN": {"learning_starts": 50, "replay_capacity": 1000, "sample_env_steps": 160, "batch_env_steps": 160},
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("name", "kind"), [("PPO", "mlp"), ("PPO", "attention"), ("DDQN", "pointer")])
def test_embeddings_are_learned_and_kept(name: str, kind: str, tmp_path: Path) -> None:
    policy = load_policy_config(
        {
            "algorithm": {"name": name, "lr": 0.01} | SMALL[name],
            "network": {"kind": kind, "hidden": [8]},
            "training": {"runners": 0, "envs_per_runner": 4, "seed": 3},
        }
    )
    algorithm = algorithm_config(load_environment(_environment()), policy, cpus=2).build_algo()
    try:
        network = algorithm.network(SHARED).q if name == "DDQN" else algorithm.network(SHARED).actor
        acting = "scores.0.embedding.weight"
        before = network.state_dict()[acting].clone()
        algorithm.train()
        algorithm.train()
        assert algorithm.learner_group._learner.fused_steps(SHARED) is None
        description, weights = algorithm.kept_policy()
        after = weights[SHARED][acting]
        assert after.shape == (EMBEDDING, NUMBERS)
        assert not torch.isclose(after, before).any()
        network.load_state_dict(weights[SHARED])
        save_policies(tmp_path / "kept", description, weights)
    finally:
        algorithm.stop()
    loaded = load_saved_policy(tmp_path / "kept")
    env = make_env(_environment(), 8)
    masks = np.ones_like(env.masks)
    with torch.no_grad():
        expected = network(torch.from_numpy(env.observations), torch.from_numpy(masks))
    sent = unpacked(packed(tmp_path / "kept"))
    assert (sent(env.observations, masks) == expected.argmax(-1).numpy()).all()
    assert (loaded.on(env)(env.observations, masks, agents=env.deciding) == expected.argmax(-1).numpy()).all()
    for other in (0, EMBEDDING + 1):
        with pytest.raises(ConfigError, match=r"sends 3 numbers|takes .* observations"):
            loaded.on(make_env(_environment(embedding=other)))


def test_an_actor_that_remembers_makes_one_embedding() -> None:
    torch.manual_seed(3)
    observations, masks = _observations(6, 4), torch.ones(6, 4)
    actor = RememberingActor(observations.shape[1], 4, (8,), "tanh", "attention", BLOCKS, 2, memory=5)
    (hearing,) = [part for part in actor.modules() if isinstance(part, Hearing)]
    plain = RememberingActor(
        hearing.size(observations.shape[1]), 4, (8,), "tanh", "attention", hearing.behind, 2, memory=5
    )
    plain.load_state_dict({key: value for key, value in actor.state_dict().items() if "hearing" not in key})
    memory = torch.rand(6, 1 + 5)
    for mine, others in zip(
        actor(observations, masks, memory), plain(hearing(observations), masks, memory), strict=True
    ):
        assert torch.allclose(mine, others, atol=1e-6)
    sequences = torch.tensor([0, 0, 0, 1, 1, 2])
    along = actor.along(observations, masks, memory, sequences)
    assert torch.allclose(along, plain.along(hearing(observations), masks, memory, sequences), atol=1e-6)


def test_small_environments_are_untouched_without_an_embedding() -> None:
    env = make_env(small_environment())
    assert env.state.outlook.size == env.state.broadcast_outlook.size == 0
