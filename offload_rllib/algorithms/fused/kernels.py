"""Kernels of the fused learner: what is between the matrix products of a gradient step.

All take and write single precision. They are in one file because a kernel of this folder is compiled again only if its
own file has changed (see `simulator.jit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from offload_rllib.simulator.jit import KERNEL_CACHE, OPTIONS, Function, Kernel, kernel

# Places in the array of figures that the kernel of losses returns.
SURROGATE, ENTROPY, DIVERGENCE, CLIPPED, CHOICES, VALUE_LOSS, EXPLAINED = range(7)
FIGURES = 7
# The same of the loss of action values.
HUBER_LOSS, ERROR_SIZE, ACTION_VALUE = range(3)

# As RLlib's `explained_variance` has it.
SMALLEST_VARIANCE = 1e-6

ZERO, ONE = np.float32(0), np.float32(1)

# tanh x = x p(x^2) / q(x^2) for |x| up to LARGEST, beyond which it is 1 in single precision; polynomials as in the
# library Eigen. The largest error is 3e-7.
LARGEST = np.float32(7.90531110763549805)
P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08)
P += (1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
P13, P11, P9, P7, P5, P3, P1 = map(np.float32, P)
Q6, Q4, Q2, Q0 = map(
    np.float32, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)

# Rows that the policy's loss is computed of together.
BLOCK = 64
# What is added to the logit of an action that is not valid, and the exponent below which a probability is none.
INVALID, SMALLEST_EXPONENT = -1e9, -87.0
# Taylor's, from the second highest on.
FACTORS = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)


def _with(*freedoms: str) -> Callable[[Function], Function]:
    """Return the decorator of kernels whose arithmetic the compiler may change in these ways, by LLVM's names."""

    def decorate(function: Function) -> Function:
        return cast("Function", Kernel(function, OPTIONS | {"fastmath": set(freedoms)}, KERNEL_CACHE))

    return decorate


# x y + z in one instruction.
contracting = _with("contract")
# Sums in another order.
reordering = _with("contract", "reassoc")


@contracting
def _activated(x, is_tanh):
    """Return tanh or relu of a number."""
    if not is_tanh:
        return max(x, ZERO)
    x = min(max(x, -LARGEST), LARGEST)
    s = x * x
    p = ((((((P13 * s + P11) * s + P9) * s + P7) * s + P5) * s + P3) * s + P1) * x
    return p / (((Q6 * s + Q4) * s + Q2) * s + Q0)


@contracting
def _slope(y, is_tanh):
    """Return the slope of tanh or relu where its result is y."""
    return ONE - y * y if is_tanh else (ZERO if y <= ZERO else ONE)


@contracting
def activate(outputs, offsets, is_tanh):
    """Add the offsets [H] to outputs [B, H] of a layer, and apply tanh or relu."""
    for row in range(outputs.shape[0]):
        for unit in range(outputs.shape[1]):
            outputs[row, unit] = _activated(outputs[row, unit] + offsets[unit], is_tanh)


@contracting
def activate_backward(derivatives, outputs, by_offsets, is_tanh):
    """Turn derivatives [B, H] by the outputs [B, H] of a layer into those before its activation, and sum them [H]."""
    by_offsets[:] = ZERO
    for row in range(outputs.shape[0]):
        for unit in range(outputs.shape[1]):
            derivative = derivatives[row, unit] * _slope(outputs[row, unit], is_tanh)
            derivatives[row, unit] = derivative
            by_offsets[unit] += derivative


@contracting
def join_rows(context, here, rows, context_offsets, here_offsets, outputs, is_tanh):
    """Write the first features [B, R, H] of every action of a pointer network.

    They are the activation of the parts for context [B, H] and row: `here` [B, H] is row 0, `rows` [B, R - 1, H] the
    others, which have no offsets of their own.
    """
    for row in range(len(context)):
        for unit in range(context.shape[1]):
            context[row, unit] += context_offsets[unit]
            outputs[row, 0, unit] = _activated(context[row, unit] + here[row, unit] + here_offsets[unit], is_tanh)
        for place in range(rows.shape[1]):
            for unit in range(context.shape[1]):
                outputs[row, place + 1, unit] = _activated(context[row, unit] + rows[row, place, unit], is_tanh)


@contracting
def part_rows(derivatives, outputs, by_context, by_here, by_rows, by_context_offsets, by_here_offsets, is_tanh):
    """Write the derivatives by what `join_rows` adds, given those by its outputs [B, R, H], and their sums."""
    by_context_offsets[:] = ZERO
    by_here_offsets[:] = ZERO
    for row in range(len(by_context)):
        for unit in range(by_context.shape[1]):
            derivative = derivatives[row, 0, unit] * _slope(outputs[row, 0, unit], is_tanh)
            by_here[row, unit] = derivative
            by_here_offsets[unit] += derivative
            by_context[row, unit] = derivative
        for place in range(by_rows.shape[1]):
            for unit in range(by_context.shape[1]):
                derivative = derivatives[row, place + 1, unit] * _slope(outputs[row, place + 1, unit], is_tanh)
                by_rows[row, place, unit] = derivative
                by_context[row, unit] += derivative
        for unit in range(by_context.shape[1]):
            by_context_offsets[unit] += by_context[row, unit]


@kernel
def find_destinations(rows, is_real):
    """Write which actions [B, R] are real: row 0, and those of whose rows [B, R - 1, S] not all numbers are zero."""
    is_real[:] = False
    for row in range(len(rows)):
        is_real[row, 0] = True
        for place in range(rows.shape[1]):
            for feature in range(rows.shape[2]):
                if rows[row, place, feature] != ZERO:
                    is_real[row, place + 1] = True
                    break


@contracting
def pool(features, is_real, pooled):
    """Write mean and largest [B, 2 H] of the features [B, R, H] of real actions [B, R]."""
    units = features.shape[2]
    for row in range(len(features)):
        count = ZERO
        pooled[row, :units] = ZERO
        pooled[row, units:] = -np.float32(np.inf)
        for action in range(features.shape[1]):
            if is_real[row, action]:
                count += ONE
                for unit in range(units):
                    pooled[row, unit] += features[row, action, unit]
                    pooled[row, units + unit] = max(features[row, action, unit], pooled[row, units + unit])
        for unit in range(units):
            pooled[row, unit] /= count


@contracting
def pool_backward(by_pooled, features, is_real, pooled, derivatives):
    """Write the derivatives by the features [B, R, H]; equal largest ones share theirs, as torch has it.

    `by_pooled` [B, 2 H] is overwritten.
    """
    units = features.shape[2]
    for row in range(len(features)):
        count = ZERO
        # The place of the derivatives by the means counts the largest ones, once those have been handed out.
        for action in range(features.shape[1]):
            count += ONE if is_real[row, action] else ZERO
        for action in range(features.shape[1]):
            share = ONE / count if is_real[row, action] else ZERO
            for unit in range(units):
                derivatives[row, action, unit] = share * by_pooled[row, unit]
        by_pooled[row, :units] = ZERO
        for action in range(features.shape[1]):
            if is_real[row, action]:
                for unit in range(units):
                    is_largest = features[row, action, unit] == pooled[row, units + unit]
                    by_pooled[row, unit] += ONE if is_largest else ZERO
        for action in range(features.shape[1]):
            if is_real[row, action]:
                for unit in range(units):
                    is_largest = features[row, action, unit] == pooled[row, units + unit]
                    share = by_pooled[row, units + unit] / by_pooled[row, unit]
                    derivatives[row, action, unit] += share if is_largest else ZERO


@reordering
def norm_of(gradient):
    """Return the Euclidean norm of a vector."""
    total = 0.0
    for place in range(len(gradient)):
        total += np.float64(gradient[place]) * np.float64(gradient[place])
    return np.sqrt(total)


@contracting
def adam_step(parameters, gradient, means, squares, scale, step_size, mean_rate, square_rate, correction, eps):
    """Move parameters along a gradient times `scale` (Kingma and Ba, arXiv 1412.6980, algorithm 1).

    `step_size` is the learning rate over the first moment's bias, `correction` the root of the second's. The rates are
    1 - beta.
    """
    for place in range(len(parameters)):
        slope = gradient[place] * scale
        mean = means[place] + mean_rate * (slope - means[place])
        square = squares[place] * (ONE - square_rate) + square_rate * slope * slope
        means[place], squares[place] = mean, square
        parameters[place] -= step_size * mean / (np.sqrt(square) / correction + eps)


@contracting
def _exp(x):
    """Return e^x for x <= 0 with an error of 1e-7 at most, in arithmetic alone: a loop around it is vectorised."""
    y = np.float64(x) * (1 / 256)
    power = 1 / 40320
    for factor in FACTORS:
        power = power * y + factor
    for _ in range(8):
        power *= power
    return 0.0 if x < SMALLEST_EXPONENT else power


@contracting
def policy_loss(
    order,
    logits,
    offsets,
    masks,
    actions,
    sampled,
    advantages,
    has_choice,
    clip,
    entropy_coeff,
    is_clipped,
    room,
    by_offsets,
    figures,
):
    """Turn logits [B, R] without their offsets [R] into the derivatives of the policy's loss by them.

    Row i of the logits belongs to row order[i] of the columns. `sampled` holds the log probabilities of the actions
    when they were taken. With `is_clipped` the gain is PPO's surrogate (Schulman et al., arXiv 1707.06347, eq. 7),
    otherwise A log pi. The derivatives are summed over rows into `by_offsets` [R].

    Rows are taken in blocks of BLOCK, action by action: `room` [2 R + 5, BLOCK] float64 holds a block's logits, its
    probabilities, and what there is one of for each row.
    """
    rows, actions_count, choices = len(order), logits.shape[1], 0
    for row in range(rows):
        choices += has_choice[order[row]]
    surrogate, mean_entropy, divergence, clipped = 0.0, 0.0, 0.0, 0.0
    weight = 1.0 / max(choices, 1)
    by_offsets[:] = ZERO
    scores, shares = room[:actions_count], room[actions_count : 2 * actions_count]
    largest, totals, weighted, slopes, weights = room[-5], room[-4], room[-3], room[-2], room[-1]
    for first in range(0, rows, BLOCK):
        count = min(BLOCK, rows - first)
        for row in range(count):
            place = order[first + row]
            for action in range(actions_count):
                # In arithmetic: a branch on what is valid could not be foreseen.
                lowered = INVALID * (1.0 - np.float64(masks[place, action]))
                scores[action, row] = np.float64(logits[first + row, action] + offsets[action]) + lowered
        largest[:] = -np.inf
        for action in range(actions_count):
            for row in range(count):
                largest[row] = max(largest[row], scores[action, row])
        totals[:] = 0.0
        weighted[:] = 0.0
        for action in range(actions_count):
            for row in range(count):
                score = scores[action, row] - largest[row]
                share = _exp(score)
                scores[action, row] = score
                shares[action, row] = share
                totals[row] += share
                weighted[row] += share * score
        for row in range(count):
            place = order[first + row]
            shift = np.log(totals[row])
            entropy = shift - weighted[row] / totals[row]
            # In double precision: numba's `float` leaves single precision alone, and gains that are equal would differ.
            advantage, taken = np.float64(advantages[place]), scores[actions[place], row] - shift
            log_ratio = taken - sampled[place]
            ratio = np.exp(log_ratio)
            if is_clipped:
                gain = advantage * ratio
                limited = advantage * min(max(ratio, 1.0 - clip), 1.0 + clip)
                slope = gain if gain <= limited else 0.0
                gain = min(gain, limited)
            else:
                gain, slope = advantage * taken, advantage
            own = weight * has_choice[place]
            surrogate += own * gain
            mean_entropy += own * entropy
            divergence += own * ((ratio - 1.0) - log_ratio)
            clipped += own * (abs(ratio - 1.0) > clip)
            # From here on what the derivatives need of a row.
            totals[row] = 1.0 / totals[row]
            weighted[row] = entropy - shift
            slopes[row] = own * slope
            weights[row] = own * entropy_coeff
        for action in range(actions_count):
            for row in range(count):
                by_entropy = weights[row] * (scores[action, row] + weighted[row])
                shares[action, row] *= totals[row] * (slopes[row] + by_entropy)
        for row in range(count):
            shares[actions[order[first + row]], row] -= slopes[row]
            for action in range(actions_count):
                logits[first + row, action] = shares[action, row]
                by_offsets[action] += logits[first + row, action]
    figures[SURROGATE], figures[ENTROPY], figures[DIVERGENCE] = surrogate, mean_entropy, divergence
    figures[CLIPPED], figures[CHOICES] = clipped, choices


@kernel
def value_loss(order, values, offset, targets, coefficient, by_offset, figures):
    """Turn values [B, 1] without their offset [1] into the derivatives of the critic's loss by them.

    The loss is the mean squared error times `coefficient`.
    """
    rows = len(order)
    errors, squared_errors, sums, squares = 0.0, 0.0, 0.0, 0.0
    by_offset[0] = ZERO
    for row in range(rows):
        target = np.float64(targets[order[row]])
        error = np.float64(values[row, 0] + offset[0]) - target
        errors += error
        squared_errors += error * error
        sums += target
        squares += target * target
        values[row, 0] = error * (2 * coefficient / rows)
        by_offset[0] += values[row, 0]
    unexplained = (squared_errors - errors * errors / rows) / (rows - 1)
    variance = (squares - sums * sums / rows) / (rows - 1)
    explained = 1.0 - unexplained / (variance + SMALLEST_VARIANCE)
    figures[VALUE_LOSS] = squared_errors / rows
    figures[EXPLAINED] = max(explained, -1.0)


@kernel
def _value_of(network, masks, row, action):
    """Return the value of an action by a network's outputs; see `double_q_loss`."""
    scores, offsets, values, value_offset = network
    found = np.float64(scores[row, action] + offsets[action])
    if not len(values):
        return found
    total, valid = 0.0, 0
    for other in range(masks.shape[1]):
        if masks[row, other] != 0:
            total += np.float64(scores[row, other] + offsets[other])
            valid += 1
    return found - total / valid + np.float64(values[row, 0] + value_offset[0])


@kernel
def double_q_loss(
    present,
    following,
    target,
    masks,
    next_masks,
    actions,
    returns,
    discounts,
    weights,
    delta,
    by_offsets,
    by_value_offset,
    errors,
    figures,
):
    """Turn the outputs of a network of action values into the derivatives of double Q-learning's loss by them.

    `present`, `following` and `target` are outputs for B rows: scores [B, R] without their offsets [R], and where the
    network is dueling values [B, 1] without their offset [1], otherwise both empty. `following` is of the network that
    is learned, `target` of its target network, both in the next states; what the value of the state is there does not
    matter to the choice of the first. Formulas as in `algorithms.double_q` and `policies.network.QNetwork`. The
    derivatives are summed over rows into `by_offsets` [R] and `by_value_offset` [1], and the TD errors [B] written.
    """
    scores, _, values, _ = present
    next_scores, next_offsets, _, _ = following
    rows, count = scores.shape
    loss, sizes, action_values = 0.0, 0.0, 0.0
    by_offsets[:] = ZERO
    by_value_offset[:] = ZERO
    for row in range(rows):
        best, highest = 0, -np.float32(np.inf)
        for action in range(count):
            score = next_scores[row, action] + next_offsets[action]
            if next_masks[row, action] != 0 and score > highest:
                best, highest = action, score
        taken = actions[row]
        value = _value_of(present, masks, row, taken)
        error = returns[row] + discounts[row] * _value_of(target, next_masks, row, best) - value
        size = abs(error)
        inner = min(size, delta)
        loss += weights[row] * inner * (size - 0.5 * inner)
        sizes += size
        action_values += value
        errors[row] = error
        slope = -weights[row] * inner * np.sign(error) / rows
        share = 0.0
        if len(values):
            valid = 0
            for action in range(count):
                valid += masks[row, action] != 0
            share = slope / valid
            values[row, 0] = slope
            by_value_offset[0] += values[row, 0]
        for action in range(count):
            derivative = slope * (action == taken) - share * (masks[row, action] != 0)
            scores[row, action] = derivative
            by_offsets[action] += scores[row, action]
    figures[HUBER_LOSS], figures[ERROR_SIZE], figures[ACTION_VALUE] = loss / rows, sizes / rows, action_values / rows
