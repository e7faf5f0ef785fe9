"""Servers found by the name of their service."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from megatron_dasd.config.base import Server
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.engines.services import (
    RequestedWeights,
    announce,
    announced_urls,
    request_weights,
    wanted_weights,
)
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


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "not UTF-8": lambda d: put(d, "1.url", b"\xff\xfe"),
    "a folder": lambda d: (d / "1.url").mkdir(),
    "a pipe": lambda d: os.mkfifo(d / "1.url"),
    "a link": lambda d: (d / "1.url").symlink_to("/etc/hostname"),
    "1 MB": lambda d: put(d, "1.url", b"x" * 1_000_000),
    "no URL": lambda d: put(d, "1.url", b";;;"),
    "a file's URL": lambda d: put(d, "1.url", b"file:///etc/passwd"),
    "a password": lambda d: put(d, "1.url", b"http://user:pw@h:1/v1"),
    "a query": lambda d: put(d, "1.url", b"http://h:1/v1?key=x"),
    "two lines": lambda d: put(d, "1.url", b"http://h:1/v1\nhttp://evil/"),
    "no port": lambda d: put(d, "1.url", b"http://h:99999/v1"),
    "half an IPv6 address": lambda d: put(d, "1.url", b"http://[::1"),
    "escapes": lambda d: put(d, "1.url", b"http://a\x1b[2J/v1"),
    "escapes in its name": lambda d: put(d, "\x1b[2J.url", b"x"),
    "a folder that others write in": lambda d: d.chmod(0o777),
    "a folder whose parent others write in": lambda d: d.parent.chmod(0o770),
    "weights: cut": lambda d: put(d, "weights.json", b'{"folder":"/a'),
    "weights: a list": lambda d: put(d, "weights.json", b"[]"),
    "weights: another field": lambda d: put(d, "weights.json", b'{"a":1}'),
    "weights: deep": lambda d: put(d, "weights.json", b'{"folder":' + b"[" * 9000),
    "weights: an option as version": lambda d: put(
        d, "weights.json", b'{"folder":"/a","version":"--x"}'
    ),
    "weights: a relative folder": lambda d: put(d, "weights.json", b'{"folder":"a","version":"x"}'),
    "weights: escapes": lambda d: put(d, "weights.json", b'{"folder":"/a\\u001b","version":"x"}'),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_foreign_in_a_service_s_folder_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASD_SERVICES", str(tmp_path / "services"))
    folder = announce("teacher", "12", "http://node1:81/v1").parent
    FOREIGN[name](folder)
    with pytest.raises(UserError) as error:
        (wanted_weights if name.startswith("weights") else announced_urls)("teacher")
    line = str(error.value)
    assert line.startswith(str(tmp_path / "services"))
    assert line.isprintable()
    assert len(line) < 400
    assert "pw@" not in line


def test_a_service_s_folder_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASD_SERVICES", str(tmp_path / "services"))
    folder = announce("teacher", "12", "http://node1:81/v1").parent
    for place in (folder, folder.parent):
        assert place.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert announced_urls("teacher") == ["http://node1:81/v1"]
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(UserError, match="belongs to another user"):
        announced_urls("teacher")


def test_weights_are_read_as_they_were_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASD_SERVICES", str(tmp_path / "services"))
    assert wanted_weights("teacher") is None
    request_weights("teacher", RequestedWeights("/models/a", "0123abcd"))
    assert wanted_weights("teacher") == RequestedWeights("/models/a", "0123abcd")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-a", "a\n", "a b", "a\x1b", "a" * 200])
def test_names_of_services_are_as_strict_as_those_of_stages(name: str) -> None:
    server = {"command": ["serve"]}
    with pytest.raises(ValidationError):
        Cluster.model_validate({"servers": {name: server}})
    with pytest.raises(ValidationError):
        Server(service=name)
    assert Cluster.model_validate({"servers": {"teacher-1": server}})
