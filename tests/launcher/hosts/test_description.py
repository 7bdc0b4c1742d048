"""Machines that are to run one program, and how they call each other."""

import socket
from dataclasses import replace

import pytest

from data_pipeline.errors import InputError
from launcher.hosts.description import Description, describe, known_as, refuse_differences

ONE = Description("a", "3.11.7", {"torch": "2.13.0"}, "c0ffee", "1234", "abcd", 0, 1)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"commit": "decade"}, "c: commit is decade, elsewhere c0ffee; check out the same commit on all"),
        ({"python": "3.12.1"}, "c: python is 3.12.1, elsewhere 3.11.7; start with the same Python on all"),
        ({"code": "5678"}, "c: code is 5678, elsewhere 1234; give all hosts the same files of this package"),
        ({"configuration": "dcba"}, "c: configuration is dcba, elsewhere abcd; give all hosts the same RUN.yaml"),
        ({"gpus": 1}, "c: is to take 2 processes and has 1 GPUs"),
    ],
)
def test_a_machine_that_differs_is_named(other: dict, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.hosts.description.PACKAGES", ("torch",))
    found = {"a": ONE, "b": ONE, "c": ONE}
    refuse_differences(found, dict.fromkeys(found, 2))
    with pytest.raises(InputError) as refused:
        refuse_differences(found | {"c": replace(ONE, **other)}, dict.fromkeys(found, 2))
    assert str(refused.value) == said


def test_names_of_ssh_alone_and_loopback_are_none_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"localhost": "127.0.0.1", "this": "127.0.1.1", "far": "10.0.0.9"}

    def known(name: str, port: None) -> list:
        if name not in addresses:
            raise socket.gaierror
        return [(None, None, None, "", (addresses[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    names = ["localhost", "root@this", "me@far", "alias"]
    found = {name: replace(ONE, host=f"host{at}") for at, name in enumerate(names)}
    assert known_as(found) == ["host0", "host1", "far", "host3"]


def test_this_machine_can_be_described() -> None:
    told = describe("model: {}")
    assert told.host and told.code and told.free_port > 0 and told.configuration != describe("model: 1").configuration
