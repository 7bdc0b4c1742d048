from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launcher.hosts.hostfile import Host, read_hostfile


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_hosts_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "# all of them\n\nworker-2 slots=8  # the big one\n  worker-1\nuser@10.0.0.3 slots=4\n")
    assert read_hostfile(path) == [Host("worker-2", 8), Host("worker-1", None), Host("user@10.0.0.3", 4)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("# nothing\n", "names no host"),
        ("a slots=8\na slots=4\n", "line 2: a stands in line 1 already"),
        ("a\nb slot=8\n", "line 2: 'slot=8' is not known here; write `b slots=N`"),
        ("a slots=0\n", "line 1: 'slots=0'"),
        ("a slots=8 slots=8\n", "line 1: 'slots=8'"),
        ("a 8\n", "line 1: '8'"),
        ("slots=8\n", "line 1: 'slots=8' is no name of a host"),
        ("-oProxyCommand=x slots=1\n", "line 1: '-oProxyCommand=x' is no name of a host"),
    ],
)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_hostfile(path)
    assert str(error.value).startswith(f"{path}: ") and said in str(error.value)


def test_a_hostfile_that_is_not_there_is_no_run_on_one_machine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_hostfile(tmp_path / "none")
