"""Settings of every stage kind, typed, and the pipeline file.

Imports no torch, so that a plan is read in no time.
"""
