"""A starter project: files that a user copies and changes."""
