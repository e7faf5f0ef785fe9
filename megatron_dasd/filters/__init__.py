"""Quality filters with named reasons over sampled responses and continuations."""
