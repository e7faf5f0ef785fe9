"""Published benchmarks: the user's own copies, read in the layouts in which they are published."""
