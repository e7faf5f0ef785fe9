"""What must be fast, a module a room; each has ``rows()``, which ``tools/bench.py`` runs."""
