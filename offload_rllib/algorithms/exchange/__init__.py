"""Several learners: each samples and learns by itself, and they meet for what they exchange."""
