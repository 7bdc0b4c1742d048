import errno
import os
from pathlib import Path

import pytest

from launcher.preflight.measures import MIB, existing, shm_free_mib, write_mb_per_s
from launcher.preflight.versions import code_hash


def test_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert existing(tmp_path / "not" / "yet") == tmp_path == existing(tmp_path / "file")


def test_a_tenth_of_the_free_space_is_written_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 40 * MIB

    synced: list[int] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        fsync(handle)
        synced.append(os.fstat(handle).st_size)

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    monkeypatch.setattr("os.fsync", noting)
    assert write_mb_per_s(tmp_path) > 0
    assert synced == [4 * MIB] and not list(tmp_path.iterdir())


def test_a_machine_without_shm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**named: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), named["dir"])

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("tempfile.TemporaryFile", missing)
    with pytest.raises(FileNotFoundError, match="/dev/shm"):
        shm_free_mib()


def test_the_code_is_known_by_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "tests").mkdir()
    seen = set()
    for name, text in (("model/a.py", "1"), ("model/a.py", "2"), ("model/b.py", "2")):
        (tmp_path / name).write_text(text)
        seen.add(code_hash(tmp_path))
    (tmp_path / "tests" / "t.py").write_text("not ours")
    assert len(seen) == 3 and code_hash(tmp_path) in seen
