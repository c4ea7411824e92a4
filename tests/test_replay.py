"""Replay holds the right transitions, draws them as often as it should, and comes back the same from disk."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from offload_rllib.config import ConfigError
from offload_rllib.rollout import replay as replay_module
from offload_rllib.rollout.fragment import Fragment
from offload_rllib.rollout.replay import ReplayBuffer, replay_bytes, require_memory
from offload_rllib.rollout.sum_tree import SumTree

ACTIONS = 3
FEATURES = 2


def stream(
    seed: int,
    *,
    steps: int,
    environments: int,
    agents: int,
    choice_share: float = 0.4,
    episode_share: float = 0.1,
    source: str = "runner",
) -> Fragment:
    """Return one long random fragment; the first feature of every observation is a number of its own."""
    rng = np.random.default_rng(seed)
    shape = (environments, agents)
    truncated = rng.random((steps, environments)) < episode_share
    ended = int(truncated.sum())

    def random_masks(*leading: int) -> np.ndarray:
        masks = np.zeros((*leading, ACTIONS), np.int8)
        masks[..., 0] = 1
        masks[..., 1:] = (rng.random(leading) < choice_share)[..., None]
        return masks

    observations = rng.uniform(-1, 1, (steps + 1, *shape, FEATURES)).astype(np.float32)
    observations[..., 0] = np.arange((steps + 1) * environments * agents).reshape(steps + 1, *shape)
    final_observations = rng.uniform(-1, 1, (ended, agents, FEATURES)).astype(np.float32)
    final_observations[..., 0] = -1 - np.arange(ended * agents).reshape(ended, agents)
    masks = random_masks(steps + 1, *shape)
    choices = masks.sum(-1) > 1
    return Fragment(
        module_id="shared",
        agents=tuple(map(str, range(agents))),
        observations=observations,
        masks=masks,
        actions=(rng.integers(0, ACTIONS, (steps, *shape)) * choices[:-1]).astype(np.int32),
        log_probabilities=np.zeros((steps, *shape), np.float32),
        source=source,
        start=0,
        rewards=rng.normal(size=(steps, *shape)).astype(np.float32),
        truncated=truncated,
        final_observations=final_observations,
        final_masks=random_masks(ended, agents),
    )


def cut(whole: Fragment, points: list[int]) -> list[Fragment]:
    """Return the fragment in pieces, cut before the given steps."""
    pieces = []
    edges = [0, *sorted(set(points)), len(whole.actions)]
    for first, last in itertools.pairwise(edges):
        before, inside = int(whole.truncated[:first].sum()), int(whole.truncated[first:last].sum())
        pieces.append(
            replace(
                whole,
                start=first,
                observations=whole.observations[first : last + 1],
                masks=whole.masks[first : last + 1],
                actions=whole.actions[first:last],
                log_probabilities=whole.log_probabilities[first:last],
                rewards=whole.rewards[first:last],
                truncated=whole.truncated[first:last],
                final_observations=whole.final_observations[before : before + inside],
                final_masks=whole.final_masks[before : before + inside],
            )
        )
    return pieces


def expected_transitions(whole: Fragment, gamma: float, n_step: int) -> dict[float, tuple[float, float, int, float]]:
    """Return, by the number of the first observation: return, discount, action, number of the last observation."""
    found = {}
    steps, environments, agents = whole.actions.shape
    for e in range(environments):
        ends = [t for t in range(steps) if whole.truncated[t, e]]
        for first, last in zip([0, *(t + 1 for t in ends)], [*ends, None], strict=True):
            for a in range(agents):
                stop = steps if last is None else last + 1
                visited = [
                    (t, whole.observations[t, e, a, 0]) for t in range(first, stop) if whole.masks[t, e, a].sum() > 1
                ]
                chosen = len(visited)
                if last is not None:
                    k = int(whole.truncated[: last + 1].sum()) - int(whole.truncated[last, e:].sum())
                    if whole.final_masks[k, a].sum() > 1:
                        visited.append((stop, whole.final_observations[k, a, 0]))
                for i, (t, number) in enumerate(visited[:chosen]):
                    if i + n_step < len(visited):
                        end, successor = visited[i + n_step]
                    elif last is not None and i + 1 < len(visited):
                        end, successor = visited[-1]
                    else:
                        continue
                    total = sum(gamma ** (k - t) * float(whole.rewards[k, e, a]) for k in range(t, end))
                    found[float(number)] = (total, gamma ** (end - t), int(whole.actions[t, e, a]), float(successor))
    return found


def held_transitions(buffer: ReplayBuffer) -> dict[float, tuple[float, float, int, float]]:
    """Return what a buffer holds, in the form of `expected_transitions`."""
    columns = buffer._columns
    slots = np.flatnonzero(columns.successors >= 0)
    assert len(slots) == len(buffer)
    successors = columns.successors[slots] % buffer.capacity
    return {
        float(columns.observations[slot, 0]): (
            float(columns.returns[slot]),
            float(columns.discounts[slot]),
            int(columns.actions[slot]),
            float(columns.observations[successor, 0]),
        )
        for slot, successor in zip(slots, successors, strict=True)
    }


def assert_same(held: dict, expected: dict) -> None:
    assert held.keys() == expected.keys()
    for number, (total, discount, action, successor) in expected.items():
        assert held[number][0] == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert held[number][1] == pytest.approx(discount, rel=1e-6)
        assert held[number][2:] == (action, successor)


def make_buffer(capacity: int = 4096, *, gamma: float = 0.9, n_step: int = 1, **options) -> ReplayBuffer:
    return ReplayBuffer(capacity, FEATURES, ACTIONS, gamma=gamma, n_step=n_step, **options)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 60),
    environments=st.integers(1, 3),
    agents=st.integers(1, 3),
    choice_share=st.sampled_from([0.05, 0.4, 1.0]),
    episode_share=st.sampled_from([0.0, 0.1, 0.5]),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    n_step=st.integers(1, 4),
    points=st.lists(st.integers(1, 59), max_size=6),
)
def test_transitions_are_those_of_a_plain_reference_wherever_fragments_are_cut(
    seed: int,
    steps: int,
    environments: int,
    agents: int,
    choice_share: float,
    episode_share: float,
    gamma: float,
    n_step: int,
    points: list[int],
) -> None:
    whole = stream(
        seed,
        steps=steps,
        environments=environments,
        agents=agents,
        choice_share=choice_share,
        episode_share=episode_share,
    )
    buffer = make_buffer(gamma=gamma, n_step=n_step)
    finished = sum(
        buffer.add(piece.agent_steps_of()) for piece in cut(whole, [point for point in points if point < steps])
    )
    expected = expected_transitions(whole, gamma, n_step)
    assert finished == len(expected)
    assert_same(held_transitions(buffer), expected)
    at_once = make_buffer(gamma=gamma, n_step=n_step)
    at_once.add(whole.agent_steps_of())
    for name, column in buffer._columns._asdict().items():
        assert (column == getattr(at_once._columns, name)).all(), name


def test_a_transition_passes_through_steps_without_a_choice() -> None:
    masks = np.array([[1, 1], [1, 0], [1, 0], [1, 1], [1, 0]], np.int8).reshape(5, 1, 1, 2)
    fragment = Fragment(
        module_id="shared",
        agents=("a",),
        observations=np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1),
        masks=masks,
        actions=np.array([1, 0, 0, 0], np.int32).reshape(4, 1, 1),
        log_probabilities=np.zeros((4, 1, 1), np.float32),
        rewards=np.array([1, 2, 4, 8], np.float32).reshape(4, 1, 1),
        truncated=np.array([0, 0, 0, 1], bool).reshape(4, 1),
        final_observations=np.full((1, 1, 1), 9, np.float32),
        final_masks=np.array([1, 0], np.int8).reshape(1, 1, 2),
    )
    buffer = ReplayBuffer(8, 1, 2, gamma=0.5, n_step=1)
    assert buffer.add(fragment.agent_steps_of()) == 1, "the second choice has no state with a choice behind it"
    batch = buffer.sample(1).transitions
    assert batch.observations.item() == 0
    assert batch.actions.item() == 1
    assert batch.returns.item() == 1 + 0.5 * 2 + 0.25 * 4
    assert batch.discounts.item() == 0.125
    assert batch.next_observations.item() == 3
    assert batch.next_masks.tolist() == [[1, 1]]

    buffer = ReplayBuffer(8, 1, 2, gamma=0.5, n_step=1)
    assert buffer.add(replace(fragment, final_masks=np.ones((1, 1, 2), np.int8)).agent_steps_of()) == 2
    assert held_transitions(buffer)[3.0] == (8, 0.5, 0, 9)


@pytest.mark.parametrize("capacity", [1, 7, 64])
@pytest.mark.parametrize("alpha", [None, 0.6])
def test_the_ring_keeps_the_latest_transitions(capacity: int, alpha: float | None) -> None:
    whole = stream(5, steps=300, environments=2, agents=2)
    expected = expected_transitions(whole, 0.9, 2)
    buffer = make_buffer(capacity, n_step=2, alpha=alpha)
    held: dict = {}
    for piece in cut(whole, list(range(0, 300, 17))[1:]):
        buffer.add(piece.agent_steps_of())
        held = held_transitions(buffer)
        assert len(buffer) == len(held) <= capacity
        assert_same(held, {number: expected[number] for number in held})
        if buffer._tree is not None:
            assert ((buffer._tree.priorities > 0) == (buffer._columns.successors >= 0)).all()
    if capacity == 64:
        # All but those under way, and the last states of episodes: the latest are there.
        assert len(held) > 40
        oldest = min(number for number in held if number >= 0)
        later = {number for number in expected if number > oldest + 4}
        assert later <= held.keys()


def test_sources_do_not_mix_and_one_that_was_begun_anew_does_not_go_on() -> None:
    first, second = (
        stream(seed, steps=50, environments=2, agents=1, episode_share=0, source=f"runner {seed}") for seed in (1, 2)
    )
    second = replace(second, observations=second.observations + np.float32(1000))
    buffer = make_buffer()
    for of_first, of_second in zip(cut(first, [9, 21]), cut(second, [9, 21]), strict=True):
        buffer.add(of_first.agent_steps_of())
        buffer.add(of_second.agent_steps_of())
    assert_same(held_transitions(buffer), expected_transitions(first, 0.9, 1) | expected_transitions(second, 0.9, 1))

    pieces = cut(first, [20])
    expected = expected_transitions(pieces[0], 0.9, 1) | expected_transitions(pieces[1], 0.9, 1)
    for start in (0, 21, None):  # begun anew; a step was lost; not counted, but it was before
        buffer = make_buffer()
        buffer.add(pieces[0].agent_steps_of())
        buffer.add(replace(pieces[1], start=start).agent_steps_of())
        assert_same(held_transitions(buffer), expected)


def test_a_source_whose_episodes_have_all_ended_leaves_nothing_behind() -> None:
    whole = stream(1, steps=20, environments=2, agents=2)
    truncated = whole.truncated.copy()
    truncated[-1] = True
    ended = int(truncated.sum())
    buffer = make_buffer()
    buffer.add(
        replace(
            whole,
            truncated=truncated,
            final_observations=np.zeros((ended, 2, FEATURES), np.float32),
            final_masks=np.zeros((ended, 2, ACTIONS), np.int8),
        ).agent_steps_of()
    )
    assert len(buffer) > 0
    assert not buffer._pending


def test_fragments_of_other_sizes_are_refused() -> None:
    buffer = make_buffer()
    buffer.add(stream(0, steps=5, environments=2, agents=2, choice_share=1, episode_share=0).agent_steps_of())
    with pytest.raises(ValueError, match="environments, agents"):
        buffer.add(replace(stream(0, steps=5, environments=3, agents=2), start=5).agent_steps_of())
    with pytest.raises(ValueError, match="features, actions"):
        ReplayBuffer(10, FEATURES + 1, ACTIONS, gamma=0.9).add(
            stream(0, steps=5, environments=2, agents=2).agent_steps_of()
        )
    with pytest.raises(ValueError, match="no finished transition"):
        make_buffer().sample(4)


def test_uniform_sampling_draws_every_finished_transition_alike() -> None:
    buffer = make_buffer(200, seed=3)
    buffer.add(stream(7, steps=400, environments=2, agents=2).agent_steps_of())
    draws = buffer.sample(200 * len(buffer))
    counts = np.unique(draws.states, return_counts=True)[1]
    assert len(counts) == len(buffer)
    assert stats.chisquare(counts).pvalue > 0.01
    assert (draws.weights == 1).all()
    held = held_transitions(buffer)
    for i in range(50):
        expected = held[float(draws.transitions.observations[i, 0])]
        assert (draws.transitions.returns[i], draws.transitions.discounts[i]) == expected[:2]
        assert draws.transitions.next_observations[i, 0] == expected[3]
        assert draws.transitions.masks[i].sum() > 1
        assert draws.transitions.next_masks[i].sum() > 1


def test_prioritised_sampling_follows_the_priorities_and_weights_make_up_for_it() -> None:
    alpha, beta = 0.7, 0.4
    buffer = make_buffer(200, alpha=alpha, seed=4)
    buffer.add(stream(8, steps=400, environments=2, agents=2).agent_steps_of())
    everything = np.unique(buffer.sample(20_000).states)
    assert len(everything) == len(buffer)
    errors = np.random.default_rng(0).uniform(0.3, 3, len(everything))
    buffer.update_priorities(everything, errors)
    probabilities = np.abs(errors) ** alpha / (np.abs(errors) ** alpha).sum()
    # Strata make counts of one large batch even; many small ones are nearly independent draws.
    draws = [buffer.sample(8, beta=beta) for _ in range(4000)]
    states = np.concatenate([draw.states for draw in draws])
    counts = np.array([(states == state).sum() for state in everything])
    expected = probabilities * len(states)
    assert expected.min() > 5, "few expected counts make the test of fit meaningless"
    assert stats.chisquare(counts, expected).pvalue > 0.01
    of_state = dict(zip(everything.tolist(), probabilities, strict=True))
    for draw in draws[:20]:
        weights = np.array([(len(buffer) * of_state[int(state)]) ** -beta for state in draw.states])
        assert draw.weights == pytest.approx(weights / weights.max(), rel=1e-4)


def test_one_batch_is_spread_over_equal_ranges_of_the_total() -> None:
    buffer = make_buffer(400, alpha=1.0)
    buffer.add(stream(8, steps=400, environments=2, agents=2).agent_steps_of())
    states = buffer.sample(len(buffer)).states
    # With equal priorities each of as many strata as transitions holds one of them.
    assert len(np.unique(states)) == len(buffer)


def test_new_transitions_get_the_largest_priority_and_overwritten_ones_none() -> None:
    buffer = make_buffer(60, alpha=1.0)
    pieces = cut(stream(9, steps=200, environments=1, agents=1, choice_share=0.5), [40, 60])
    buffer.add(pieces[0].agent_steps_of())
    drawn = buffer.sample(8).states
    buffer.update_priorities(drawn, np.full(8, 50.0))
    buffer.update_priorities(drawn, np.full(8, 0.01))
    before = set(np.flatnonzero(buffer._columns.successors >= 0))
    assert buffer.add(pieces[1].agent_steps_of()) > 0
    new = sorted(set(np.flatnonzero(buffer._columns.successors >= 0)) - before)
    assert buffer._tree is not None
    assert buffer._tree.priorities[new] == pytest.approx(50.0)
    buffer.add(pieces[2].agent_steps_of())
    priorities = buffer._tree.priorities.copy()
    buffer.update_priorities(drawn, np.full(8, 1000.0))
    assert (buffer._tree.priorities == priorities).all(), "all that was drawn has been overwritten"
    with pytest.raises(ValueError, match="not finite"):
        buffer.update_priorities(drawn, np.full(8, np.nan))
    with pytest.raises(ValueError, match="uniformly"):
        make_buffer().update_priorities(drawn, np.zeros(8))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    updates=st.lists(st.tuples(st.integers(0, 39), st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1e9])), max_size=60),
    fraction=st.floats(0, 1, exclude_max=True),
)
def test_the_tree_finds_only_positive_priorities_and_sums_exactly(
    size: int, updates: list[tuple[int, float]], fraction: float
) -> None:
    tree = SumTree(size)
    expected = np.zeros(size)
    for slot, priority in updates:
        if slot < size:
            expected[slot] = priority
            tree.set(np.array([slot]), np.array([priority]))
    assert (tree.priorities == expected).all()
    assert tree.total == pytest.approx(expected.sum(), rel=1e-12)
    again = SumTree(size)
    again.set_all(expected)
    assert again.total == tree.total
    if tree.total > 0:
        slots, priorities = tree.find(np.array([0.0, fraction, np.nextafter(1, 0)]))
        assert (expected[slots] == priorities).all()
        assert (priorities > 0).all()
        reached = np.cumsum(expected)[slots]
        assert reached[1] >= fraction * tree.total * (1 - 1e-9) - 1e-12


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_a_restored_buffer_goes_on_with_the_same_draws(tmp_path: Path, alpha: float | None) -> None:
    pieces = cut(stream(10, steps=300, environments=2, agents=2), [100, 200])
    for capacity in (150, 4096):
        buffer = make_buffer(capacity, n_step=3, alpha=alpha, seed=11)
        buffer.add(pieces[0].agent_steps_of())
        buffer.add(pieces[1].agent_steps_of())
        first = buffer.sample(32)
        if alpha is not None:
            buffer.update_priorities(first.states, np.linspace(-1, 1, 32))
        buffer.save(tmp_path / "replay.npz")
        restored = make_buffer(capacity, n_step=3, alpha=alpha, seed=99)
        restored.add(pieces[2].agent_steps_of())
        restored.restore(tmp_path / "replay.npz")
        for _ in range(3):
            a, b = buffer.sample(64, beta=0.5), restored.sample(64, beta=0.5)
            for x, y in zip((*a.transitions, *a[1:]), (*b.transitions, *b[1:]), strict=True):
                assert (x == y).all()
            # What was under way was kept as well, and goes on with the first of these.
            assert buffer.add(pieces[2].agent_steps_of()) == restored.add(pieces[2].agent_steps_of())
            assert len(buffer) == len(restored)


def test_files_of_other_buffers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.npz"
    buffer = make_buffer(50)
    buffer.save(path)
    with pytest.raises(ConfigError, match="capacity 50; this buffer needs 51"):
        make_buffer(51).restore(path)
    with pytest.raises(ConfigError, match="alpha"):
        make_buffer(50, alpha=0.6).restore(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not a replay buffer"):
        buffer.restore(path)
    with pytest.raises(ConfigError, match="not a replay buffer"):
        buffer.restore(tmp_path / "absent.npz")


def test_memory_is_what_was_said_and_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = make_buffer(1000, alpha=0.5)
    assert buffer._tree is not None
    arrays = sum(column.nbytes for column in buffer._columns) + buffer._tree._nodes.nbytes
    assert buffer.nbytes == arrays == replay_bytes(1000, FEATURES, ACTIONS, prioritised=True)
    require_memory(500, available_bytes=1000)
    with pytest.raises(ConfigError, match="replay_capacity"):
        require_memory(501, available_bytes=1000)

    class Little:
        available = 2 * buffer.nbytes - 1

    monkeypatch.setattr(replay_module.psutil, "virtual_memory", Little)
    with pytest.raises(ConfigError, match="half"):
        make_buffer(1000, alpha=0.5)
