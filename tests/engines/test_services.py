"""Servers found by the name of their service."""

from pathlib import Path

import pytest

from megatron_dasd.engines.services import announce, announced_urls
from megatron_dasd.errors import UserError


def test_servers_announce_and_withdraw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASD_SERVICES", str(tmp_path))
    assert announced_urls("teacher") == []
    first = announce("teacher", "12", "http://node1:81/v1")
    announce("teacher", "11", "http://node2:82/v1")
    announce("other", "13", "http://node2:83/v1")
    assert announced_urls("teacher") == ["http://node2:82/v1", "http://node1:81/v1"]
    first.unlink()
    assert announced_urls("teacher") == ["http://node2:82/v1"]


def test_nobody_says_where_services_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASD_SERVICES", raising=False)
    with pytest.raises(UserError, match=r"service: teacher: not started .* tools/submit"):
        announced_urls("teacher")
