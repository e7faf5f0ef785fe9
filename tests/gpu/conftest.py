"""Tests that need real kernels; without a GPU each is skipped, and says so."""

import pytest

from megatron_dasd.device import gpus


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them here where there is no GPU."""
    if gpus.in_sight():
        return
    reason = "no GPU in sight: what only real kernels can show is not shown here (docs/gpu.md)"
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.skip(reason=reason))
