"""The verb `compare`: plan, run, report."""
