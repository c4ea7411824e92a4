"""The simulator agrees with queueing theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.environments import make_env
from scipy import integrate, optimize, stats

from offload_rllib.envs.vector import VectorEnv, held_out_keys
from offload_rllib.simulator.types import FINISHED, NONE

REPLICATIONS = 40


def single_queue(
    service: str,
    cores: int,
    rate: float,
    work: dict | float,
    *,
    horizon_s: float = 200_000,
    capacity: int | None = None,
    log: bool = False,
    seed: int = 0,
    when: str = "interval",
    **changes: Any,
) -> Any:
    """Return replications of one queue at which tasks are served at once.

    Its node has no agent, or, with `when: arrival`, one that keeps every task.
    """
    deadline_s = changes.pop("deadline_s", None)
    env = make_env(
        {
            "horizon_s": horizon_s,
            "warmup_s": 2_000,
            "topology": {
                "kind": "manual",
                "nodes": [
                    {
                        "name": "queue",
                        "instructions_per_second": 1.0,
                        "cores": cores,
                        "client": True,
                        "queue_capacity": capacity,
                    },
                    {"name": "other", "instructions_per_second": 1.0},
                ],
                "links": [["queue", "other"]],
            },
            "links": {"kind": "fixed", "rate_bps": 1.0},
            "service": service,
            "workload": {
                "jobs": {"kind": "mix", "types": [{"instructions": work}]},
                "load": {"tasks_per_second_per_client": rate},
                "deadline_s": deadline_s,
            },
            "decisions": {"when": "interval", "interval_s": 2_000} if when == "interval" else {"when": when},
            "score": {"drop_s": horizon_s},
        }
        | changes,
        REPLICATIONS,
        log=log,
    )
    if when == "arrival":
        env.reset(held_out_keys(seed, REPLICATIONS))
        env.play("local")
        return env
    env.scenario.arrays.node["agent"] = NONE
    env.reset(held_out_keys(seed, REPLICATIONS))
    while not env.step(np.zeros(env.rewards.shape)):
        pass
    return env


def figures(env: VectorEnv, name: str) -> np.ndarray:
    """Return one figure of every replication."""
    return np.array([env.episode_metrics(e)[name] for e in range(env.num_envs)])


def check(values: np.ndarray, theory: float, width: float = 0.01) -> None:
    """Assert that theory lies in the 99 % interval of the replications' mean, and that the interval is narrow."""
    half = stats.sem(values) * stats.t.ppf(0.995, len(values) - 1)
    assert half < width * abs(theory), f"half-width {half / theory:.2%}"
    assert abs(values.mean() - theory) < half, f"{values.mean():.6g} +- {half:.2g}, theory {theory:.6g}"


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_mean_response_of_m_m_1(when: str) -> None:
    rho = 0.7
    env = single_queue("pooled", 1, rho, {"exponential": 1.0}, when=when)
    check(figures(env, "response_mean_s"), 1 / (1 - rho))


def test_percentiles_of_m_m_1_within_one_percent() -> None:
    rho = 0.5
    env = single_queue("pooled", 1, rho, {"exponential": 1.0})
    for name, share in (("score_p50_s", 0.5), ("score_p95_s", 0.95), ("score_p99_s", 0.99)):
        # The response time of M/M/1 is exponential with rate mu - lambda.
        assert figures(env, name).mean() == pytest.approx(-np.log(1 - share) / (1 - rho), rel=0.01)


def test_mean_response_of_m_d_1() -> None:
    rho = 0.6
    env = single_queue("pooled", 1, rho, 1.0)
    check(figures(env, "response_mean_s"), 1 + rho / (2 * (1 - rho)))


def test_mean_response_of_m_m_2() -> None:
    rho = 0.6  # of each of two servers: E[T] = 1 / (1 - rho^2) mean services
    env = single_queue("parallel", 2, 2 * rho, {"exponential": 1.0})
    check(figures(env, "response_mean_s"), 1 / (1 - rho**2))


@pytest.mark.parametrize(
    ("when", "servers"),
    [
        ("interval", 3),
        ("arrival", 5),
        # Millions of tasks more, of what those above have shown.
        pytest.param("interval", 5, marks=pytest.mark.slow),
        pytest.param("arrival", 3, marks=pytest.mark.slow),
    ],
)
def test_mean_wait_of_m_m_c_is_erlangs(when: str, servers: int) -> None:
    """Erlang's C formula: A. K. Erlang, "Solution of some problems in the theory of probabilities", 1917."""
    offered = 0.75 * servers
    terms = [offered**n / math.factorial(n) for n in range(servers)]
    all_busy = offered**servers / math.factorial(servers) * servers / (servers - offered)
    probability_of_waiting = all_busy / (sum(terms) + all_busy)
    env = single_queue("parallel", servers, offered, {"exponential": 1.0}, horizon_s=300_000, when=when)
    check(figures(env, "waiting_mean_s"), probability_of_waiting / (servers - offered))
    check(figures(env, "response_mean_s"), 1 + probability_of_waiting / (servers - offered))


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_mean_response_of_m_g_1_is_pollaczek_and_khinchines(when: str) -> None:
    """E[W] = lambda E[S^2] / (2 (1 - rho)), here for uniform service: F. Pollaczek, 1930; A. Khinchine, 1932."""
    low, high, rate = 0.2, 1.8, 0.65
    env = single_queue("pooled", 1, rate, {"uniform": [low, high]}, when=when)
    second_moment = (low**2 + low * high + high**2) / 3
    mean = (low + high) / 2
    check(figures(env, "response_mean_s"), mean + rate * second_moment / (2 * (1 - rate * mean)))


@pytest.mark.parametrize(("rho", "capacity"), [(0.9, 3), (1.5, 5)])
@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_loss_of_m_m_1_k(rho: float, capacity: int, when: str) -> None:
    """P(loss) = (1 - rho) rho^K / (1 - rho^(K + 1)), K tasks in the node, the one in service among them."""
    env = single_queue("pooled", 1, rho, {"exponential": 1.0}, horizon_s=50_000, capacity=capacity, when=when)
    check(figures(env, "dropped_queue_full_share"), (1 - rho) * rho**capacity / (1 - rho ** (capacity + 1)))
    weights = rho ** np.arange(capacity + 1)
    loss = weights[-1] / weights.sum()
    in_node = np.arange(capacity + 1) @ weights / weights.sum()
    check(figures(env, "response_mean_s"), in_node / (rho * (1 - loss)))  # Little's law
    check(figures(env, "overload"), loss)  # arrivals see time averages


@pytest.mark.parametrize("expiry", ["queued", "abort"])
@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_loss_of_m_m_1_with_exponential_patience(expiry: str, when: str) -> None:
    """A birth-death process whose tasks leave at rate theta each, while waiting or anywhere.

    C. Palm, "Research on telephone traffic carried by full availability groups", Tele 1, 1957 (the model Erlang-A).
    """
    rate, theta = 0.9, 0.2
    env = single_queue(
        "pooled",
        1,
        rate,
        {"exponential": 1.0},
        horizon_s=50_000,
        deadline_s={"exponential": 1 / theta},
        deadlines={"expiry": expiry},
        when=when,
    )
    tasks = np.arange(1, 200)
    impatient = tasks - 1 if expiry == "queued" else tasks
    weights = np.concatenate([[1.0], np.cumprod(rate / (1.0 + theta * impatient))])
    served = 1 - weights[0] / weights.sum()  # service has rate 1
    check(figures(env, "dropped_expired_share"), 1 - served / rate)


def test_loss_of_m_m_1_with_constant_patience() -> None:
    """Tasks that wait D leave: the density of the offered wait is lambda p0 exp(-(mu - lambda) x) up to D, then falls
    as exp(-mu x). D. Y. Barrer, "Queuing with impatient customers and ordered service", Operations Research 5, 1957.
    """
    rate, patience_s = 0.85, 2.5
    env = single_queue(
        "pooled",
        1,
        rate,
        {"exponential": 1.0},
        horizon_s=50_000,
        deadline_s=patience_s,
        deadlines={"expiry": "queued"},
    )
    decay = math.exp(-(1 - rate) * patience_s)
    idle = 1 / (1 + rate * (1 - decay) / (1 - rate) + rate * decay)
    check(figures(env, "dropped_expired_share"), rate * idle * decay)


def squared_waits(queue: str, rho: float, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and mean square of the wait in each replication; the same workload for every discipline."""
    sums = np.zeros((3, REPLICATIONS))
    for seed in range(batches):
        env = single_queue("pooled", 1, rho, {"exponential": 1.0}, horizon_s=40_000, queue=queue, log=True, seed=seed)
        for e in range(REPLICATIONS):
            log = env.task_log(e)
            waits = log["waiting_s"][(log["outcome"] == FINISHED) & (log["created_s"] > 2_000)]
            sums[:, e] += len(waits), waits.sum(), (waits**2).sum()
    return sums[1] / sums[0], sums[2] / sums[0]


# Squares spread more widely than waits.
@pytest.mark.parametrize(("batches", "width"), [(5, 0.03), pytest.param(30, 0.01, marks=pytest.mark.slow)])
def test_last_come_first_served_has_the_same_mean_wait_and_a_larger_variance(batches: int, width: float) -> None:
    """E[W^2] of LIFO is that of FIFO / (1 - rho), M/G/1 without preemption.

    L. Takacs, "Delay distributions for one line with Poisson input, general holding times, and various orders of
    service", Bell System Technical Journal 42, 1963.
    """
    rho = 0.3
    mean, squares = {}, {}
    for queue in ("fifo", "lifo"):
        mean[queue], squares[queue] = squared_waits(queue, rho, batches)
    of_fifo = 2 * rho / (1 - rho) ** 2
    check(mean["fifo"], rho / (1 - rho))
    check(mean["lifo"], rho / (1 - rho))
    check(squares["fifo"], of_fifo, width=width)
    check(squares["lifo"], of_fifo / (1 - rho), width=width)


def test_mean_wait_of_shortest_job_first() -> None:
    """E[W] = (lambda E[S^2] / 2) E[(1 - rho(S))^-2], rho(x) the load of jobs up to x; without preemption.

    T. E. Phipps, "Machine repair as a priority waiting-line problem", Operations Research 4, 1956.
    """
    rate = 0.7
    env = single_queue("pooled", 1, rate, {"exponential": 1.0}, queue="sjf", horizon_s=300_000)

    def integrand(x: float) -> float:
        shorter = rate * (1 - math.exp(-x) * (1 + x))
        return math.exp(-x) / (1 - shorter) ** 2

    factor, _ = integrate.quad(integrand, 0, math.inf)
    check(figures(env, "waiting_mean_s"), rate * factor)


def test_mean_waits_of_types_by_priority() -> None:
    """E[W_k] = (lambda E[S^2] / 2) / ((1 - rho(k-1)) (1 - rho(k))), rho(k) the load of type k and those before it.

    A. Cobham, "Priority assignment in waiting line problems", Operations Research 2, 1954; without preemption.
    """
    rates, means = (0.25, 0.3, 0.2), (0.8, 1.2, 1.0)  # the first and the last exponential, the second uniform
    second_moments = (2 * 0.8**2, (0.4**2 + 0.4 * 2.0 + 2.0**2) / 3, 2 * 1.0**2)
    work = ({"exponential": 0.8}, {"uniform": [0.4, 2.0]}, {"exponential": 1.0})
    env = single_queue(
        "pooled",
        1,
        sum(rates),
        1.0,
        queue="priority",
        priorities={"urgent": 7, "last": -2},
        workload={
            "jobs": {
                "kind": "mix",
                "types": [
                    {"name": name, "weight": rate, "instructions": each}
                    for name, rate, each in zip(("urgent", "usual", "last"), rates, work, strict=True)
                ],
            },
            "load": {"tasks_per_second_per_client": sum(rates)},
        },
    )
    rest = sum(rate * square for rate, square in zip(rates, second_moments, strict=True)) / 2
    before = 0.0
    for name, rate, mean in zip(("urgent", "usual", "last"), rates, means, strict=True):
        behind = before + rate * mean
        check(figures(env, f"waiting_mean_s_of_{name}"), rest / ((1 - before) * (1 - behind)), width=0.02)
        before = behind


def test_an_open_jackson_network() -> None:
    """Nodes that send tasks on with fixed probabilities are independent M/M/1 queues.

    J. R. Jackson, "Networks of waiting lines", Operations Research 5, 1957. Here a task is routed at once, up to
    `max_hops` times, and served where it stays; Poisson streams split and merged at random are Poisson streams. Agents
    decide so often that holding times hardly matter; they are left out.
    """
    routing = np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    rate, hops, replications = 0.4, 2, 720
    env = make_env(
        {
            "horizon_s": 2_000,
            "warmup_s": 60,
            "drain_s": 30,
            "topology": {
                "kind": "manual",
                "nodes": [{"name": name, "instructions_per_second": 1.0, "client": True} for name in "abc"],
                "links": [["a", "b"], ["b", "c"], ["a", "c"]],
            },
            "links": {"kind": "fixed", "rate_bps": 1e9},
            "workload": {
                "jobs": {"kind": "mix", "types": [{"instructions": {"exponential": 1.0}}]},
                "load": {"tasks_per_second_per_client": rate},
            },
            "decisions": {"when": "interval", "interval_s": 0.05, "max_hops": hops},
            "information": {"kind": "fresh"},
        },
        replications,
    )
    rng = np.random.default_rng(0)
    # Action k of a node is its k-th neighbour by index; action 0 keeps the task.
    choices = [[i, *(j for j in range(3) if j != i)] for i in range(3)]
    shares = np.array([np.cumsum(routing[i][choices[i]]) for i in range(3)])
    busy = np.zeros((replications, 3))
    both, samples = np.zeros(replications), 0
    done = False
    while not done:
        done = env.step((rng.random((replications, 3, 1)) > shares).sum(axis=2))
        if env.state.episode["step"][0] % 20 == 0 and env.state.episode["step"][0] > 1200:
            idle = env.state.node["busy"] == 0
            busy += ~idle
            both += (~idle).all(axis=1)
            samples += 1
    entering = np.full(3, rate)
    served = np.zeros(3)
    for _ in range(hops):
        served += entering * routing.diagonal()
        entering = entering @ (routing - np.diag(routing.diagonal()))
    served += entering
    assert served.sum() == pytest.approx(3 * rate)
    stay = figures(env, "waiting_mean_s") + figures(env, "service_mean_s")
    check(stay, float((served / (1 - served)).sum() / served.sum()))
    # Product form: the nodes are busy independently of each other. (Seen at decisions alone, just before tasks move on,
    # each is busy a little less often than its load.)
    alone = (busy / samples).mean(axis=0)
    assert alone == pytest.approx(served, rel=0.03)
    # How often all are busy varies with how often each is; that much of it is known (a control variate).
    product = float(alone.prod())
    check(both / samples - ((busy / samples - alone) / alone).sum(axis=1) * product, product)


@pytest.mark.parametrize("when", ["interval", "arrival"])
def test_with_shared_cores_the_mean_response_depends_on_the_mean_work_alone(when: str) -> None:
    """M/G/1 with processor sharing: E[T] = E[S] / (1 - rho) whatever the law of S, and E[T | S = x] = x / (1 - rho).

    L. Kleinrock, "Time-shared systems: a theoretical treatment", Journal of the ACM 14, 1967; M. Sakata, S. Noguchi,
    J. Oizumi, "An analysis of the M/G/1 queue under round-robin scheduling", Operations Research 19, 1971.
    """
    rho = 0.5
    env = single_queue("shared", 1, rho, {"exponential": 1.0}, horizon_s=100_000, when=when)
    check(figures(env, "response_mean_s"), 1 / (1 - rho))
    # Ten short tasks to a long one, with the same mean: first come, first served they would wait for each other.
    types = [{"weight": 10, "instructions": 0.55}, {"weight": 1, "instructions": {"uniform": [4.5, 6.5]}}]
    jobs = {"kind": "mix", "types": types}
    load = {"tasks_per_second_per_client": rho}
    env = single_queue("shared", 1, rho, 1.0, horizon_s=100_000, when=when, workload={"jobs": jobs, "load": load})
    check(figures(env, "response_mean_s"), 1 / (1 - rho), width=0.02)
    check(figures(env, "response_mean_s_of_type_0"), 0.55 / (1 - rho), width=0.02)
    check(figures(env, "response_mean_s_of_type_1"), 5.5 / (1 - rho), width=0.02)


def test_with_shared_cores_there_are_as_many_tasks_as_first_come_first_served() -> None:
    """With exponential work the number of tasks is a birth-death process that does not know who is served.

    So means are those of M/M/c; of two tasks served at once on one core the others wait as in a queue; and of those
    that leave at rate theta each the loss is that of Palm.
    """
    rho, cores = 0.6, 3
    offered = rho * cores
    terms = [offered**n / math.factorial(n) for n in range(cores)]
    all_busy = offered**cores / math.factorial(cores) / (1 - rho)
    probability_of_sharing = all_busy / (sum(terms) + all_busy)
    env = single_queue("shared", cores, offered, {"exponential": 1.0}, horizon_s=50_000)
    check(figures(env, "response_mean_s"), 1 + probability_of_sharing / (cores - offered))
    rho = 0.5
    env = single_queue("shared", 1, rho, {"exponential": 1.0}, horizon_s=100_000, tasks_per_core=2)
    check(figures(env, "response_mean_s"), 1 / (1 - rho))
    check(figures(env, "waiting_mean_s"), rho**2 / (1 - rho), width=0.03)
    rate, theta = 0.9, 0.2
    env = single_queue("shared", 1, rate, {"exponential": 1.0}, horizon_s=50_000, deadline_s={"exponential": 1 / theta})
    weights = np.concatenate([[1.0], np.cumprod(rate / (1.0 + theta * np.arange(1, 200)))])
    check(figures(env, "dropped_expired_share"), 1 - (1 - weights[0] / weights.sum()) / rate)


def link_queue(sent_probability: float, bits: dict | float) -> VectorEnv:
    """Return replications of a link with contention to which a task is given at each decision with a probability.

    The node holds one task at most, so that at each decision there is one if its client made any since the last one.
    """
    env = make_env(
        {
            "horizon_s": 60_000,
            "warmup_s": 2_000,
            "topology": {
                "kind": "manual",
                "nodes": [
                    {"name": "sender", "instructions_per_second": 1.0, "client": True, "queue_capacity": 1},
                    {"name": "receiver", "instructions_per_second": 1e12},
                ],
                "links": [["sender", "receiver"]],
            },
            "links": {"kind": "fixed", "rate_bps": 1.0, "contention": "fifo"},
            "workload": {
                "jobs": {"kind": "mix", "types": [{"instructions": 1.0, "bits_in": bits}]},
                "load": {"tasks_per_second_per_client": -np.log(1 - sent_probability)},
            },
            "decisions": {"when": "interval", "interval_s": 1.0, "max_hops": 1},
            "score": {"drop_s": 60_000},
        },
        REPLICATIONS,
    )
    while not env.step(np.ones(env.rewards.shape)):
        pass
    return env


@pytest.mark.parametrize(("sent_probability", "mean_sending_s"), [(0.25, 2.0), (0.8, 0.75)])
def test_mean_transfer_over_a_link_with_exponential_messages(sent_probability: float, mean_sending_s: float) -> None:
    env = link_queue(sent_probability, {"exponential": mean_sending_s})
    transfers = np.array([env.episode_metrics(e)["transfer_mean_s"] for e in range(REPLICATIONS)])
    # GI/M/1: E[T] = E[S] / (1 - sigma), sigma = E[exp(-(1 - sigma) gap / E[S])], here with geometric gaps.

    def equation(sigma: float) -> float:
        step = np.exp(-(1 - sigma) / mean_sending_s)
        return sent_probability * step / (1 - (1 - sent_probability) * step) - sigma

    sigma = optimize.root_scalar(equation, bracket=(0.0, 1 - 1e-6)).root
    check(transfers, mean_sending_s / (1 - sigma))


def test_mean_transfer_over_a_link_with_equal_messages() -> None:
    # Geo/D/1 with a service of two slots: E[wait] = p S (S - 1) / (2 (1 - p S)) slots (Bruneel and Kim, "Discrete-Time
    # Models for Communication Systems Including ATM", 1993, with E[S(S - 1)] = S (S - 1)).
    p, sending_s = 0.4, 2.0
    env = link_queue(p, sending_s)
    transfers = np.array([env.episode_metrics(e)["transfer_mean_s"] for e in range(REPLICATIONS)])
    check(transfers, sending_s + p * sending_s * (sending_s - 1) / (2 * (1 - p * sending_s)))
