import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.preflight.judge import hosts_to_leave_out, judge, outliers
from launcher.preflight.nodes import Node, nodes_of

GOOD = {"free_gb": 50.0, "shm_free_mib": 4096.0, "open_files": 65536, "matmul_tflops": 600.0, "clock_seconds": 0.0}
SAME = {"python": "3.11.7", "torch": "2.13.0", "gpus": "none", "manifest": "aa"}


def machines(count: int) -> list[Node]:
    return [Node(f"n{at}", [at], values=dict(GOOD), same=dict(SAME)) for at in range(count)]


def found(nodes: list[Node]) -> list[tuple[str, str]]:
    return [(fault.host, fault.what) for fault in judge(nodes)]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([10], []),
        ([10, 1], []),  # nothing tells which of two is right
        ([10, 10, 8.9], [2]),
        ([10, 10, 9.1], []),  # not a tenth
        ([1, 10, 1], []),  # the median is theirs
        ([10, 1, 10, 1], []),  # a half
        ([10, 1, 10, 1, 10], [1, 3]),
        ([10, 8.8, 12, 5, 13], [3]),  # 8.8 is a tenth below, but among such a spread that is nothing
        ([3, 10, 20], []),  # the deviation is 8.5
        ([10] * 99 + [5], [99]),
    ],
)
def test_outliers_are_below_the_median_by_a_tenth_and_a_deviation(values: list[float], named: list[int]) -> None:
    assert outliers(values) == named


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30))
def test_outliers_are_a_minority_in_any_order(values: list[float]) -> None:
    named = [values[at] for at in outliers(values)]
    assert len(named) < len(values) / 2
    assert sorted(named) == sorted(values[::-1][at] for at in outliers(values[::-1]))
    assert all(value < 0.9 * statistics.median(values) for value in named)


def test_a_slow_machine_is_named_with_value_median_and_mend() -> None:
    nodes = machines(3)
    nodes[1].values["matmul_tflops"] = 412.0
    (fault,) = judge(nodes)
    assert str(fault).startswith(
        "n1: matrix multiply: 412 TFLOP/s; the median of 3 is 600 TFLOP/s: look for other work"
    )


def test_of_several_gpus_the_slow_one_is_named_also_on_a_machine_alone() -> None:
    (node,) = machines(1)
    node.devices = {f"cuda:{at}": {"matmul_tflops": 500.0 if at == 3 else 700.0} for at in range(8)}
    (fault,) = judge([node])
    assert fault.value == "500 TFLOP/s on cuda:3" and "of 8 is 700" in fault.expected


def test_the_minority_of_versions_and_manifests_is_named_with_both_values() -> None:
    nodes = machines(3)
    nodes[0].same["torch"] = "2.12.0"
    nodes[2].same |= {"manifest": "bb"}
    nodes[1].same["nccl"] = "2.27"
    told = {(fault.host, fault.what): (fault.value, fault.expected) for fault in judge(nodes)}
    assert told == {
        ("n0", "torch"): ("2.12.0", "2 of 3 machines have 2.13.0"),
        ("n2", "manifest"): ("bb", "2 of 3 machines have aa"),
        ("n1", "nccl"): ("2.27", "2 of 3 machines have none"),
    }


def test_what_a_machine_could_not_tell_is_told_once() -> None:
    nodes = machines(2)
    del nodes[1].same["manifest"]
    nodes[1].errors["manifest"] = "[Errno 2] No such file"
    assert found(nodes) == [("n1", "manifest")]
    assert "failed: [Errno 2]" in judge(nodes)[0].value


@pytest.mark.parametrize(
    ("clocks", "named"),
    [([0.0, 0.9], []), ([0.0, -1.2], ["n1"]), ([0.0, 30.0, 30.1], ["n0"]), ([0.0, 0.1, 7.0], ["n2"])],
)
def test_a_clock_is_off_by_more_than_a_second(clocks: list[float], named: list[str]) -> None:
    nodes = machines(len(clocks))
    for node, clock in zip(nodes, clocks, strict=True):
        node.values["clock_seconds"] = clock
    assert found(nodes) == [(host, "clock_seconds") for host in named]


def test_limits_grow_with_the_ranks_and_what_is_needed_is_told() -> None:
    nodes = machines(64)
    for node in nodes:
        node.ranks = list(range(8))
    nodes[5].values |= {"open_files": 4096, "shm_free_mib": 64.0, "free_gb": 0.5}
    told = {fault.what: (fault.value, fault.expected) for fault in judge(nodes)}
    assert told == {
        "free_gb": ("0.5 GB", "at least 1 GB are needed"),
        "shm_free_mib": ("64 MiB", "at least 512 MiB are needed"),
        "open_files": ("4096", "at least 4608 are needed"),
    }


def test_of_a_silent_machine_and_those_that_waited_for_it_only_the_silent_one_is_named() -> None:
    nodes = machines(3)
    nodes[0].unfinished, nodes[1].errors = ["all_reduce_between_gb_per_s"], {"meeting": "connection closed by peer"}
    assert found(nodes) == [("n0", "all_reduce_between_gb_per_s"), ("n1", "meeting")]
    nodes[2].silent = {2: "all_reduce_between_gb_per_s"}
    assert found(nodes) == [("n2", "answer")]
    nodes[2].silent, nodes[2].unfinished = {}, ["write_mb_per_s"]
    assert found(nodes) == [("n2", "write_mb_per_s")]
    nodes[2].unfinished, nodes[2].errors = [], {"device": "CUDA error"}
    assert found(nodes) == [("n2", "device")]


@pytest.mark.parametrize(
    ("hosts", "faults", "named"),
    [
        ("abc", [], ""),
        ("abc", ["a disk", "b disk", "c disk"], ""),  # it would be full without any of them
        ("abc", ["a disk", "b disk", "c disk", "c torch", "b answer"], "bc"),
        ("ab", ["b disk", "b disk"], "b"),
        ("a", ["a free_gb", "a folder"], ""),
        ("a", ["a free_gb", "a answer"], "a"),
    ],
)
def test_what_all_have_leaves_nobody_out(hosts: str, faults: list[str], named: str) -> None:
    told = [dict(zip(("host", "what"), fault.split(), strict=True)) for fault in faults]
    verdict = {"ok": not faults, "nodes": [{"host": host} for host in hosts], "faults": told}
    assert hosts_to_leave_out(verdict) == list(named)


def account(rank: int, node: int, **more: object) -> dict:
    return {
        "rank": rank,
        "node": node,
        "local_rank": rank % 2,
        "host": f"n{node}",
        "answers": True,
        "doing": None,
    } | more


def test_a_machine_has_what_the_least_of_its_ranks_has_and_silent_ones_are_found_a_host() -> None:
    cpu = {"device": "cpu", "versions": {"torch": "2"}}
    accounts = [
        account(0, 0, measures=cpu | {"memory_gb_per_s": 5.0, "clock_seconds": 0.0}, seconds={"memory_gb_per_s": 1.0}),
        account(1, 0, measures=cpu | {"memory_gb_per_s": 4.0}, seconds={"memory_gb_per_s": 2.0}),
        account(2, 1, answers=False, doing="versions"),
        {"rank": 3, "answers": False},
        {"rank": 4, "answers": False},
        {"rank": 5, "answers": False},
    ]
    first, second, third, fourth = nodes_of(accounts, 2, ["n0", "n1", "lost", "never"])
    assert first.values == {"memory_gb_per_s": 4.0, "clock_seconds": 0.0} and first.seconds == {"memory_gb_per_s": 2.0}
    assert first.same == {"torch": "2", "gpus": "none"} and not first.silent
    assert (second.host, second.silent) == ("n1", {2: "versions", 3: None})
    assert (third.host, third.silent) == ("lost", {4: None, 5: None})
    assert (fourth.host, fourth.ranks) == ("never", [])
    assert [host for host, _ in found([first, second, third, fourth])] == ["n1", "n1", "lost", "lost", "never"]
