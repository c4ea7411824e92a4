"""A run or a sweep as a page that follows it: what its files say, for a browser on the same machine."""
