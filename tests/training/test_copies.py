"""Copies of checkpoints on a real S3 server and in a folder, and runs that go on from them."""

import json
import threading
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.shards import FileEntry
from launcher.config import load_run
from launcher.resume import choose
from object_store import CREDENTIALS, put, s3_server
from processes import events, metrics, write_run
from ranks import thalweg
from training import checkpoint, copies
from training.checkpoint import CheckpointManifest
from training.copies import Copier, Copies
from training.run_folder import RunFolder

EVERY = ["checkpoint.every_tokens=400", "train.decay_tokens=1600"]


def made_up(run_dir: Path, step: int, content: str = "x") -> Path:
    folder = checkpoint.folder_of(run_dir, step)
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    names = ("state.json", "weights/00000.safetensors", "weights/00001.safetensors")
    for name in names:
        (folder / name).write_text(f"{content} {name} {step}")
    files = {name: FileEntry.of(folder / name) for name in names}
    (folder / "manifest.json").write_text(
        CheckpointManifest(step=step, tokens=80 * step, files=files).model_dump_json()
    )
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing() -> None:
    pass


@pytest.mark.slow
def test_a_new_machine_with_an_empty_disk_goes_on_from_the_store(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    thalweg("train", run, *EVERY, "run_dir=straight", cwd=tmp_path)
    with s3_server() as address:
        put(address, "/bucket")
        there = CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{address}"}
        copied = [*EVERY, "checkpoint.copy_to=s3://bucket/runs/t"]
        layout = ["--processes", 2, "zero.stage=2"]
        thalweg("launch", run, *layout, *copied, "train.tokens=800", "run_dir=one", cwd=tmp_path, **there)
        told = [each for each in events(tmp_path / "one") if each["event"].startswith("copy")]
        assert told[-1]["event"] == "copy" and told[-1]["path"] == "s3://bucket/runs/t/step-0000010"
        _, said = thalweg("launch", run, *layout, *copied, "run_dir=other", cwd=tmp_path, **there)
        # Which of the two fetches is open, and rank 0 says nothing of it where the other one had done so before.
        assert "resumed from other/checkpoints/step-0000010 at step 10" in said
        assert tree(tmp_path / "one/checkpoints/step-0000010") == tree(tmp_path / "other/checkpoints/step-0000010")
        named = ["--resume", "s3://bucket/runs/t/step-0000010", "run_dir=named"]
        _, said = thalweg("train", run, *EVERY, *named, cwd=tmp_path, **there)
        assert "fetches s3://bucket/runs/t/step-0000010" in said
        assert "resumed from named/checkpoints/step-0000010 at step 10" in said
    hashes = {name: metrics(tmp_path / name)[-1]["data_hash"] for name in ("straight", "other", "named")}
    losses = {name: metrics(tmp_path / name)[-1]["loss"] for name in hashes}
    assert len(set(hashes.values())) == 1 and max(losses.values()) - min(losses.values()) < 1e-5


def test_a_copy_is_complete_or_invisible_and_replaces_that_of_another_life(tmp_path: Path, monkeypatch) -> None:
    first, second = made_up(tmp_path, 10), made_up(tmp_path, 20)
    there = Copies(str(tmp_path / "there"), {})
    assert there.newest() is None
    there.store(first, nothing)
    assert there.newest() == "step-0000010" and tree(tmp_path / "there/step-0000010") == tree(first)
    (tmp_path / "there/latest").unlink()
    assert there.newest() == "step-0000010"
    there.store(first, nothing)

    def broken(kept: int) -> list[str]:
        """Copies until so many files are there, and tells which."""
        done: list[str] = []
        write = there._remote.write

        def until_it_breaks(name: str, path: Path) -> None:
            if len(done) == kept:
                raise InputError("broken")
            done.append(name)
            write(name, path)

        with monkeypatch.context() as patched, pytest.raises(InputError, match="broken"):
            patched.setattr(copies, "AT_ONCE", 1)
            patched.setattr(there._remote, "write", until_it_breaks)
            there.store(second, nothing)
        return done

    for kept in range(4):
        assert len(broken(kept)) == kept and there.newest() == "step-0000010"
    assert broken(4)[-1] == "step-0000020/manifest.json" and there.newest() == "step-0000010"
    (tmp_path / "there/latest").unlink()
    assert there.newest() == "step-0000020"

    made_up(tmp_path, 20, "from another life")
    assert broken(1) == ["step-0000020/state.json"] and there.newest() == "step-0000010"
    there.store(second, nothing)
    assert there.newest() == "step-0000020" and tree(tmp_path / "there/step-0000020") == tree(second)


def test_what_is_fetched_is_what_was_copied_or_nothing(tmp_path: Path, monkeypatch) -> None:
    folder, there = made_up(tmp_path, 10), Copies(str(tmp_path / "there"), {})
    there.store(folder, nothing)
    monkeypatch.setattr("data_pipeline.remote_files.FIRST_DELAY", 0.0)
    weights = tmp_path / "there/step-0000010/weights/00001.safetensors"
    whole = weights.read_bytes()
    final = tmp_path / "new/checkpoints/step-0000010"
    for damage in (whole[:-1], whole + b"x", b"X" + whole[1:]):
        weights.write_bytes(damage)
        with pytest.raises(InputError, match=r"00001\.safetensors: .*restore it or take another checkpoint"):
            there.fetch("step-0000010", final)
        assert not final.exists() and checkpoint.latest(tmp_path / "new") is None
    weights.write_bytes(whole)
    there.fetch("step-0000010", final)
    assert tree(final) == tree(folder) and checkpoint.latest(tmp_path / "new") == final
    manifest = tmp_path / "there/step-0000010/manifest.json"
    manifest.write_text(manifest.read_text().replace("state.json", "../state.json"))
    with pytest.raises(InputError, match=r"names a file outside its folder, \.\./state\.json"):
        there.fetch("step-0000010", final.with_name("step-0000011"))


def test_what_is_named_by_its_url_is_fetched_once_and_told_from_others(tmp_path: Path) -> None:
    there, run_dir = tmp_path / "there", tmp_path / "run"
    Copies(str(there), {}).store(made_up(tmp_path, 10), nothing)
    config = load_run(write_run(tmp_path), [f"run_dir={run_dir}", f"checkpoint.copy_to={there}"])
    with pytest.raises(InputError, match=f"{there}/step-0000010 is there already"):
        choose(config, "never")
    assert not run_dir.exists()
    url, final = f"file://{there}/step-0000010", run_dir / "checkpoints/step-0000010"
    assert choose(config, url) == final and tree(final) == tree(there / "step-0000010")
    inode = final.stat().st_ino
    assert choose(config, url + "/") == choose(config, "auto") == final and final.stat().st_ino == inode
    (there / "step-0000010/manifest.json").write_text(CheckpointManifest(step=10, files={}).model_dump_json())
    for wrong, told in {
        url: "is another checkpoint than file://",
        f"file://{there}": "names no checkpoint; name one, such as file://.*/there/step-0000123",
        f"file://{there}/step-1": "there/step-1/manifest.json: is missing there",
        "s3://user:hush@bucket/t/step-1": "s3://bucket/t/step-1 was given with a user or password",
    }.items():
        with pytest.raises(InputError, match=told):
            choose(config, wrong)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["checkpoint.copy_to=s3://me:hush@bucket/x"], "checkpoint.copy_to: holds a user or password"),
        (["checkpoint.storage=hush"], "checkpoint.storage: Input should be a valid dictionary"),
        (["checkpoint.copy_to=runs/t/checkpoints"], "checkpoint.copy_to is where the run writes its checkpoints"),
    ],
)
def test_what_is_wrong_with_copies_is_told_before_the_run(tmp_path: Path, monkeypatch, fields, told: str) -> None:
    run = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told) as refused:
        load_run(run, fields)
    assert "hush" not in str(refused.value)


def test_a_copy_that_fails_is_told_and_the_next_is_tried(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("data_pipeline.remote_files.FIRST_DELAY", 0.0)
    folder = RunFolder(tmp_path / "run", writes=True)
    (tmp_path / "there").write_text("a file stands in the way")
    copier = Copier(str(tmp_path / "there"), {}, folder)
    copier.offer(made_up(tmp_path / "run", 10))
    copier.wait()
    (tmp_path / "there").unlink()
    copier.offer(made_up(tmp_path / "run", 20))
    copier.wait()
    folder.close()
    failed, copied = events(tmp_path / "run")
    assert (failed["event"], failed["step"], copied["event"], copied["step"]) == ("copy_failed", 10, "copy", 20)
    assert "step-0000010 could not be copied" in caplog.text and failed["reason"] in caplog.text
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["latest", "step-0000020"]


def test_while_one_is_copied_the_newest_waits_and_those_between_are_left_out(tmp_path: Path, monkeypatch) -> None:
    go_on = threading.Event()
    folder = RunFolder(tmp_path / "run", writes=True)
    copier = Copier(str(tmp_path / "there"), {}, folder)
    write = copier._copies._remote.write

    def slowly(name: str, path: Path) -> None:
        go_on.wait()
        write(name, path)

    monkeypatch.setattr(copier._copies._remote, "write", slowly)
    made = [made_up(tmp_path / "run", step) for step in (10, 20, 30)]
    for each in made:
        copier.offer(each)
    assert copier.busy == [made[0], made[2]]
    go_on.set()
    copier.wait()
    folder.close()
    assert copier.busy == [] and [each["step"] for each in events(tmp_path / "run")] == [10, 30]


def test_a_copier_that_is_closed_leaves_its_copy_invisible(tmp_path: Path, monkeypatch, caplog) -> None:
    folder = RunFolder(tmp_path / "run", writes=True)
    copier = Copier(str(tmp_path / "there"), {}, folder)
    write, asked, go_on = copier._copies._remote.write, threading.Event(), threading.Event()

    def slowly(name: str, path: Path) -> None:
        asked.set()
        go_on.wait()
        write(name, path)

    monkeypatch.setattr(copies, "AT_ONCE", 1)
    monkeypatch.setattr(copier._copies._remote, "write", slowly)
    copier.offer(made_up(tmp_path / "run", 10))
    asked.wait()
    copier.close()
    folder.close()
    go_on.set()
    copier.wait()
    assert [path.name for path in (tmp_path / "there").rglob("*") if path.is_file()] == ["state.json"]
    assert not (tmp_path / "run/events.jsonl").exists() and "could not" not in caplog.text


@pytest.mark.slow
def test_a_store_that_refuses_costs_the_run_nothing_and_shows_no_secret(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with s3_server() as address:
        there = CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{address}"}
        copied = [*EVERY, "checkpoint.copy_to=s3://nowhere/t"]
        _, said = thalweg("train", run, *copied, "train.tokens=800", cwd=tmp_path, **there)
        told = events(tmp_path / "runs/t")
        assert [each["event"] for each in told].count("checkpoint") == 2 and told[-1]["event"] == "end"
        failed = [each for each in told if each["event"] == "copy_failed"]
        assert failed and all(each["path"].startswith("s3://nowhere/t/step-") for each in failed)
        assert "could not be copied: s3://nowhere/t/step-00000" in said and "cannot be written" in said
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in said + json.dumps(told)

        put(address, "/nowhere")  # the last one is copied by the next life at the latest
        thalweg("train", run, *copied, cwd=tmp_path, **there)
        copied_steps = [each["step"] for each in events(tmp_path / "runs/t") if each["event"] == "copy"]
        assert copied_steps[0] == 10 and copied_steps[-1] == 20
