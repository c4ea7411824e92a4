"""The benchmark suite: scenarios with exact references, scorecards, and checks of results from outside."""
