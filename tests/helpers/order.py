"""The order of the files of tests."""

from __future__ import annotations

# The files that take longest, by their time on two processes, that of compiling kernels included. The two at the top
# need different kernels, so that neither waits for what the other one compiles.
LONGEST_FIRST = (
    "test_central.py",
    "test_runs.py",
    "test_page_examples.py",
    "test_compare.py",
    "test_policy_keys.py",
    "test_sweeps.py",
    "test_extremes.py",
    "test_queueing_theory.py",
    "test_testbed.py",
    "test_paper.py",
    "test_appo.py",
    "test_several_trainings.py",
    "test_reference.py",
    "test_continuity.py",
    "test_cluster.py",
    "test_topology.py",
    "test_several_learners.py",
    "test_names.py",
    "test_schedules.py",
    "test_kernel_cache.py",
    "test_ray_security.py",
    "test_ppo.py",
)
