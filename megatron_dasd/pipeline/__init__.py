"""The graph of stages: which function does which kind, the local runner, the command line."""
