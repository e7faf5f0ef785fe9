"""Tasks of the project's own: their problems, worked solutions and the check of a solution's steps.

Everything here is a pure function of its arguments.
"""
