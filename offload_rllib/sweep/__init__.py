"""The verb `tune`: plan, trials, search, leaderboard, report."""
