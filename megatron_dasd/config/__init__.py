"""Settings of every stage kind, typed, and the pipeline file.

Nothing here imports torch, so that a pipeline file is checked at once.
"""
