"""Code that may be hostile, run in worker processes that can do no harm.

The host (:mod:`pool`) starts workers behind walls (:mod:`walls`).  In each worker a warden
(:mod:`warden`) imports the trusted task once and forks a child per request; only the child sees
what came from outside.  Host and warden exchange length-prefixed bytes (:mod:`protocol`).
"""
