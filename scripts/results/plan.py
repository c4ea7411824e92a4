"""What docs/results.md reports: the parts, with what is trained and played for each."""

from __future__ import annotations

from scripts.results.study import Study

# Trained when the samples of `ppo.yaml` were half as long, in its versions 3 and 4.
SHORT_SAMPLES = "training.envs_per_runner=16"
DROPS = ("reward.drop_penalty_s=500",)
# A drop comes up to 200 s after its decision, out of sight of a critic for which the task is gone.
UP_TO_DROPS = {"ppo": (SHORT_SAMPLES, "training.env_steps=576000", "algorithm.lambda=1.0")}
SHORT_TRAINING = {"ppo": (SHORT_SAMPLES, "training.env_steps=288000")}
# Drops are few and come in heaps: it takes more episodes to tell who has fewer.
EPISODES_OF_DROPS = 200
# Found by `offload-rllib tune-rule ENV RULE` on training episodes, with workload.load.rho=1.0 where the load is full.
# The second of two values has the fewest drops (`--metric dropped_share`).
TUNED, TUNED_TO_DROPS = ("size_interval:3",), ("size_interval:3", "size_interval:8")
TUNED_AT_FULL_LOAD = ("size_interval:2.5", "size_interval:5")
TUNED_IN_A_HERD = ("keep_first:0.75",)
TAIL = ("score_mean_s", "score_p95_s", "dropped_share")
POINTER = (
    "network={kind: pointer, hidden: [64, 64], activation: relu}",
    SHORT_SAMPLES,
    "training.env_steps=96000",
    "algorithm.entropy_coeff=0.02",
)
STUDIES = (
    Study(
        "ether_12",
        "The paper's network under Alibaba jobs",
        "ether_12",
        ("ppo", "a2c"),
        question="Few jobs are huge, and block the server for all others: who keeps them off it?",
        own_changes=SHORT_TRAINING,
        tuned=TUNED,
        tried="With `lambda` 0.95 instead of 0.98 one A2C training of five ended at 38 s, where `shortest_finish` is. "
        "Batches of 1,024, or one gradient step per batch, end later and higher: training scores of 26 to 33 s.",
    ),
    Study(
        "ether_12_ddqn",
        "The same with DDQN",
        "ether_12",
        ("ddqn",),
        question="Learning from replay takes fewer decisions, and two to four times as much computing.",
        tuned=TUNED,
    ),
    Study(
        "ether_12_sharing",
        "The same with a policy per type of device, and one per node",
        "ether_12",
        ("ppo",),
        question="Each policy learns from fewer agents, and need not tell them apart.",
        sharings=("per_device", "per_node"),
        changes=("algorithm.minibatch_steps=128",),
        own_changes=SHORT_TRAINING,
        tuned=TUNED,
        tried="A policy has only a part of each batch. With the preset's 512 rows per gradient step it takes few: "
        "four trainings of ten ended at 28 to 39 s.",
    ),
    Study(
        "herd_20",
        "Twenty equal nodes with old news, rho 0.9",
        "herd_20",
        ("ppo_herd",),
        question="Nodes hear of each other every five mean service times: who goes by that goes where all others go.",
        reference="keep_first",
        tuned=TUNED_IN_A_HERD,
    ),
    Study(
        "herd_20_a2c",
        "The same with A2C",
        "herd_20",
        ("a2c_herd",),
        question="From twice as many decisions: does it find the same?",
        reference="keep_first",
        tuned=TUNED_IN_A_HERD,
    ),
    Study(
        "herd_20_ddqn",
        "The same with DDQN",
        "herd_20",
        ("ddqn_herd",),
        question="Agents that choose the best action all choose the same: does it cost them here?",
        # Trained before its gradient steps were written out.
        changes=("algorithm.learner=torch",),
        reference="keep_first",
        tuned=TUNED_IN_A_HERD,
    ),
    Study(
        "herd_20_rho_0.8",
        "The same, rho 0.8",
        "herd_20",
        ("ppo_herd", "a2c_herd"),
        question="With more room the rules herd less; is there still something to learn?",
        overrides=("workload.load.rho=0.8",),
        reference="keep_first",
    ),
    Study(
        "ether_12_drops",
        "Paid for few drops: the trade-off with the mean",
        "ether_12",
        ("ppo",),
        question="The score counts a drop as its deadline. Here learners pay for it as for 500 s more.",
        overrides=DROPS,
        tuned=TUNED_TO_DROPS,
        own_changes=UP_TO_DROPS,
        reference="deadline_finish",
        figure="dropped_share",
        judged=TAIL,
        episodes=EPISODES_OF_DROPS,
    ),
    Study(
        "ether_12_rho_1.0",
        "The same, rho 1.0",
        "ether_12",
        ("ppo", "a2c"),
        question="As much work as all nodes together can do, so that some must be left; drops cost learners as much.",
        overrides=("workload.load.rho=1.0", *DROPS),
        tuned=TUNED_AT_FULL_LOAD,
        own_changes={"ppo": (SHORT_SAMPLES, "training.env_steps=576000")},
        reference="deadline_finish",
        figure="dropped_share",
        judged=TAIL,
        episodes=EPISODES_OF_DROPS,
        tried="With `lambda` 1, as in the part before, PPO ended at 40 ± 12 s with 6.7 ± 3.1 % dropped, and was still "
        "getting better.",
    ),
    Study(
        "transfer",
        "Networks not seen in training",
        "ether_12",
        ("ppo",),
        question="A pointer policy fits any network: what does one of 12 nodes lose elsewhere to one trained there?",
        changes=POINTER,
        elsewhere={
            "ether_19": ("ether_19", ()),
            "ether_28": ("ether_28", ()),
            "ether_31": ("ether_31", ()),
        },
        seeds=3,
    ),
    Study(
        "transfer_100",
        "The same with a random network of 100 nodes",
        "ether_12",
        ("ppo",),
        question="From 12 nodes of one kind of network to 100 of another.",
        changes=POINTER,
        elsewhere={"random_100": ("random_20", ("topology.nodes=100",))},
        seeds=3,
    ),
)
