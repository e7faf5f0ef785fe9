"""Whether this machine trains as it should: a small training of known results, and its speed."""
