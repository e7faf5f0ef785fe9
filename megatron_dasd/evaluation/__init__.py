"""Task accuracy of the held-out prompts, and the report of a run."""
