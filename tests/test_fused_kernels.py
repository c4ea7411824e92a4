"""The kernels between the matrix products of the fused learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offload_rllib.algorithms.fused.kernels import activate, activate_backward, norm_of


@pytest.mark.parametrize(("rows", "units"), [(1, 1), (7, 5), (64, 64), (3, 37)])
@pytest.mark.parametrize("is_tanh", [True, False])
def test_activations_and_their_derivatives_are_torchs(rows: int, units: int, *, is_tanh: bool) -> None:
    rng = np.random.default_rng(rows)
    inputs = (rng.normal(0, 1, (rows, units)) * 10.0 ** rng.uniform(-6, 1.5, (rows, units))).astype(np.float32)
    offsets = rng.normal(0, 0.5, units).astype(np.float32)
    derivatives = rng.normal(0, 1, (rows, units)).astype(np.float32)
    seen = torch.from_numpy(inputs + offsets).requires_grad_()
    expected = torch.tanh(seen) if is_tanh else torch.relu(seen)
    expected.backward(torch.from_numpy(derivatives))
    assert seen.grad is not None
    outputs, sums = inputs.copy(), np.full(units, np.nan, np.float32)
    activate(outputs, offsets, is_tanh)
    np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=4e-7, atol=1e-12)
    activate_backward(derivatives, outputs, sums, is_tanh)
    np.testing.assert_allclose(derivatives, seen.grad.numpy(), atol=3e-6)
    np.testing.assert_allclose(sums, seen.grad.sum(0).numpy(), atol=2e-5)


@pytest.mark.parametrize("is_tanh", [True, False])
def test_what_is_not_a_number_stays_so(*, is_tanh: bool) -> None:
    outputs = np.array([[np.nan, np.inf, -np.inf, 0.0]], np.float32)
    activate(outputs, np.zeros(4, np.float32), is_tanh)
    assert np.isnan(outputs[0, 0])
    expected = [1.0, -1.0, 0.0] if is_tanh else [np.inf, 0.0, 0.0]
    np.testing.assert_allclose(outputs[0, 1:], expected, rtol=4e-7)


@pytest.mark.parametrize("size", [0, 1, 17, 4096])
def test_norms(size: int) -> None:
    vector = np.random.default_rng(size).normal(0, 1e-3, size).astype(np.float32)
    assert norm_of(vector) == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))), rel=1e-12)
    assert np.isnan(norm_of(np.array([1.0, np.nan, 1.0] * 9, np.float32)))
