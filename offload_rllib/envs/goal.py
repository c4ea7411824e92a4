"""What rewards ask for, as a figure of an episode: the mean score, or, with more terms, the mean cost of a task."""

from __future__ import annotations

from collections.abc import Mapping

from offload_rllib.config.decisions import Reward

SCORE, COST = "score_mean_s", "cost_mean_s"


def goal_of(reward: Reward) -> str:
    """Return the figure by which policies that learn from a reward are ranked; lower is better.

    It is `COST` where a drop, energy or price cost something beside time, and otherwise `SCORE`.
    """
    charged = reward.drop_penalty_s or reward.energy_weight or reward.price_weight
    return COST if reward.name == "delay" and charged else SCORE


def cost_of(reward: Reward, figures: Mapping[str, float], tasks: int) -> dict[str, float]:
    """Return `COST`, s: what a task costs by the terms of the reward `delay`, on average; or nothing.

    It is the mean score, the penalties of drops, and energy and price as their weights say, without what nodes use when
    they are idle. Where objectives have weights, each term is multiplied by its own.

    Args:
        reward: of the environment.
        figures: of an episode, by name.
        tasks: of the whole episode, which energy and price are of.
    """
    if goal_of(reward) != COST:
        return {}
    used = sum(figures.get(f"energy_{use}{unit}", 0.0) for use in ("compute", "transmit") for unit in ("_j", ""))
    each = max(tasks, 1)
    terms = {
        "response": figures[SCORE],
        "drops": reward.drop_penalty_s * figures["dropped_share"],
        "energy": reward.energy_weight * used / each,
        "price": reward.price_weight * figures.get("price", 0.0) / each,
    }
    weighs = reward.weights is not None
    return {COST: sum(term * (figures.get(f"weight_{name}", 0.0) if weighs else 1.0) for name, term in terms.items())}
