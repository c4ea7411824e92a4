"""What docs/hype.md says of the methods, whatever the results are."""

from __future__ import annotations

HEAD = """\
<!-- Written by scripts/hype. Do not edit: run it. -->

# Offloading with RL: hype or hope?

Five published learning methods, rebuilt from their papers, are compared with a tuned rule, this project's own learners
and a lower bound. All have the same budget of decisions, and all play the same held-out episodes. The figures of every
episode are in [hype_episodes.csv](images/hype_episodes.csv), and [hype.json](images/hype.json) says how each was made.

    python -m scripts.hype --folder F               # trains and plays; the same command continues after a stop
    python -m scripts.hype --folder F --collect     # writes this page, its figures and its data

`--decisions`, `--seeds` and `--episodes` give another budget; `--only PATTERN` runs a part.
"""

READING = """\
± and [ ] are 95 % intervals over training seeds and held-out episodes. Differences are paired by episode, and in
parentheses if they are not certain, adjusted for their number in the table. IQM is the mean of the middle half of all
episodes. [What the statistics are](compare.md#the-statistics). `NAME` plays greedily, `NAME (sampled)` draws its
actions. The bound is [clairvoyant](bound.md): a policy that can be built may stay far above it.

What to keep in mind:

- `tuned_rule` learns, too. With each training seed a quarter of the budget chooses one of the [rules](heuristics.md),
  and the rest chooses its parameter, on training episodes. Rules without a seed have their default parameters.
- `ppo`, `a2c` and `ddqn` are the presets of `policies/` with a smaller budget. They are shipped with 192,000 to 576,000
  decisions, and their settings were found on `ether_12`. [Results](results.md) has them with all of it. They were
  trained with `discount_s: 1`, PPO with samples of 320 decisions. Now [the discount follows the
  deadlines](algorithms/ppo.md#how-far-ahead) and [samples are longer](algorithms/ppo.md#how-long-a-sample-is), and in
  `geometric_20` they end far lower.
- The rebuilt methods were not tuned. Settings are those of the papers where they are known, and otherwise ours.
- Every method observes the same and earns the same reward. The reward, the discount per second and decisions at
  arrivals belong to the environments. So the page tests the methods here, and not the figures of the papers.
- A small budget favours methods that need few samples. It does not show what a method reaches with more.
- Decisions are counted while training. `genetic` and `tuned_rule` play whole episodes, and the presets whole
  iterations, so that they take a little more or less.
"""

METHODS_TEXT = """\
## The methods

- `dqn_lstm`: M. Tang, V. W. S. Wong, "Deep Reinforcement Learning for Task Offloading in Mobile Edge Computing
  Systems", IEEE Transactions on Mobile Computing 21(6), 2022,
  [doi:10.1109/TMC.2020.3036871](https://doi.org/10.1109/TMC.2020.3036871). From the paper: an LSTM reads past loads,
  dueling and double Q-learning, 16 samples per decision, learning rate 0.001, exploration from 1 to 0.01. (The
  authors' public code, `mingt2019/Deep-Q-learning-for-mobile-edge-computing`, has 0.01 and 32 samples every tenth step,
  and, as here, a history of 10 and 20 LSTM units.) Ours: one
  network for all nodes, where the paper trains one per device; sizes of layers, length of the history, replay.
- `mappo`: C. Yu, A. Velu, E. Vinitsky, J. Gao, Y. Wang, A. Bayen, Y. Wu, "The Surprising Effectiveness of PPO in
  Cooperative Multi-Agent Games", NeurIPS 2022, [arXiv 2103.01955](https://arxiv.org/abs/2103.01955). From the paper:
  a centralised critic with an agent-specific global state, value normalisation, clipped Huber loss, one batch without
  minibatches, 10 epochs, clip 0.2, lambda 0.95, entropy 0.01, gradient norm 10, last gain 0.01. Ours: the size of the
  batch, and the global state, which is the tasks and the wait of every node.
- `droo`: L. Huang, S. Bi, Y.-J. A. Zhang, "Deep Reinforcement Learning for Online Computation Offloading in Wireless
  Powered Mobile-Edge Computing Networks", IEEE Transactions on Mobile Computing 19(11), 2020,
  [doi:10.1109/TMC.2019.2928811](https://doi.org/10.1109/TMC.2019.2928811). From the paper: a network proposes,
  order-preserving quantisation makes K candidates, a model chooses, the network imitates; adaptive K; layers of 120
  and 80, batches of 128 from the newest 1,024, an update every 10 decisions, learning rate 0.01. Ours: a decision is
  about one task, so bits are destinations; the model is the expected finish that the agent observes.
- `genetic`: F. Petroski Such, V. Madhavan, E. Conti, J. Lehman, K. O. Stanley, J. Clune, "Deep Neuroevolution:
  Genetic Algorithms Are a Competitive Alternative for Training Deep Neural Networks for Reinforcement Learning",
  2017, [arXiv 1712.06567](https://arxiv.org/abs/1712.06567). From the paper: truncation, Gaussian mutation, one
  elite. Ours: uniform crossover, a network of 200 weights that scores one action at a time, and one training episode
  per generation, the same for all.
- `federated_dqn`: X. Wang, Y. Han, C. Wang, Q. Zhao, X. Chen, M. Chen, "In-Edge AI: Intelligentizing Mobile Edge
  Computing, Caching and Communication by Federated Learning", IEEE Network 33(5), 2019,
  [doi:10.1109/MNET.2019.1800286](https://doi.org/10.1109/MNET.2019.1800286), with the averaging of H. B. McMahan, E.
  Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
  Decentralized Data", AISTATS 2017, [arXiv 1602.05629](https://arxiv.org/abs/1602.05629). From the papers: double DQN
  at every node from its own decisions, and means of the weights by samples. Ours: all numbers.

One property of `droo` follows from its construction. For a decision about one task, an exhaustive search by its model
is the rule `deadline_finish`. So its scores should come near that rule's, and they are worth comparing with it.
"""
