"""A run whose data lie on an object store: a real server, real processes, and faults on the way."""

import os
from pathlib import Path

import pytest
import yaml

from folder import write_folder
from object_store import CREDENTIALS, Fault, proxy_for, put_folder, s3_server, storage_of
from processes import VOCAB_SIZE, metrics, thalweg, write_run

SHARDS = {"a": [900] * 20, "b": [700] * 9, "c": [500]}


@pytest.mark.slow
def test_local_remote_and_staged_data_give_the_same_run_whatever_happens_on_the_way(tmp_path: Path) -> None:
    run, prepared = write_run(tmp_path), tmp_path / "prepared"
    write_folder(prepared, SHARDS, VOCAB_SIZE, validation=400, tokenizer=(prepared / "tokenizer.json").read_text())
    bound = 40_000  # the corpus has 50,000 bytes of tokens alone
    order = ["data.open_shards=3", "train.decay_tokens=1600", "metrics.every_steps=1"]
    thalweg("launch", run, *order, "run_dir=local", cwd=tmp_path)

    staged = [f"data.cache={{path: staging, size: {bound}}}", "run_dir=staged"]
    thalweg("launch", run, *order, *staged, cwd=tmp_path)

    with s3_server() as upstream, proxy_for(upstream) as proxy:
        url = put_folder(upstream, "bucket", "prepared", prepared)
        remote = yaml.safe_load(run.read_text())
        remote["data"] |= {"path": url, "storage": storage_of(proxy.address), "cache": {"path": "cache", "size": bound}}
        run.with_name("remote.yaml").write_text(yaml.safe_dump(remote))
        proxy.faults += [
            Fault("status", "/train/00000.tokens", times=2),
            Fault("cut", "a/train/00003.tokens", times=1),
            Fault("corrupt", "a/train", times=2),
            Fault("slow", "b/train", times=3),
        ]
        arguments = ["launch", "remote.yaml", *order, "--processes", 2, "run_dir=remote"]
        thalweg(*arguments, "train.tokens=800", cwd=tmp_path, **CREDENTIALS)
        _, said = thalweg(*arguments, cwd=tmp_path, **CREDENTIALS)
        assert "resumed from" in said
        assert not any(fault.times for fault in proxy.faults[:1]) and proxy.faults[2].times == 0
        shown, _ = thalweg("inspect", "remote", "--step", 3, cwd=tmp_path, **CREDENTIALS)
        assert "a, epoch 0" in shown and "made up" in shown
        whole, _ = thalweg("verify", url, cwd=tmp_path, **CREDENTIALS, AWS_ENDPOINT_URL=f"http://{upstream}")
        assert "whole" in whole
    local = [line["data_hash"] for line in metrics(tmp_path / "local")]
    assert [line["data_hash"] for line in metrics(tmp_path / "staged")] == local
    assert [line["data_hash"] for line in metrics(tmp_path / "remote")] == local
    assert all(line["data_wait_seconds"] >= 0 for line in metrics(tmp_path / "remote"))
    assert sum(line["data_wait_seconds"] for line in metrics(tmp_path / "remote")) > 0.1
    read = [line["data_read_seconds_by_source"] for line in metrics(tmp_path / "remote")]
    assert sum(sum(each.values()) for each in read) > 0.1 and all(set(each) == set(SHARDS) for each in read)
    for cache in ("cache", "staging"):
        held = sum(
            path.stat().st_size
            for path in (tmp_path / cache).rglob("*")
            if path.is_file() and ".locks" not in path.parts
        )
        assert 0 < held <= bound + 4096
    environment = (tmp_path / "remote" / "environment.json").read_text() + (
        tmp_path / "remote" / "config.yaml"
    ).read_text()
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in environment and os.environ.get("AWS_SECRET_ACCESS_KEY") is None
