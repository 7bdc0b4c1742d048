"""What `thalweg submit` makes of a run and a site. Real queues are in tests/cluster."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.errors import InputError
from launcher.config import load_run
from launcher.slurm.site import read_site
from launcher.slurm.snapshot import PARTS, ROOT, Snapshot, resolved
from launcher.slurm.submission import read_submission
from launcher.slurm.submit import Jobs, Wish, lead_of, processes, read_nodes
from processes import environment, thalweg, write_run
from training.errors import RunError

RECIPE = {"tokenizer": {"train": {"vocab_size": 300}}, "sources": {"a": {"kind": "jsonl", "paths": ["a.jsonl"]}}}

UNPREPARED = "data={path: null, prepare: r.yaml}"
TEXTS = ["data.sources={web: {kind: text, paths: [texts.jsonl]}}", "data.mixture={a: 0.5, web: 0.5, b: 0, c: 0}"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path)


def site(run: Path, **keys: Any) -> None:
    (run.parent / "site.yaml").write_text(yaml.safe_dump(keys))


def jobs(run: Path, *assignments: str, nodes: str = "2", prepare: bool = False, **given: Any) -> Jobs:
    known = read_site(run, given)
    wish = Wish(read_nodes(nodes), processes(known, None), None, 3, True, prepare, None)
    return Jobs(load_run(run, list(assignments)), known, wish)


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_options_win_over_the_site_beside_the_run_and_that_over_the_users(run: Path, tmp_path: Path) -> None:
    (tmp_path / "home" / "thalweg").mkdir(parents=True)
    users = {
        "account": "users",
        "partition": "users",
        "qos": "users",
        "gpu_type": "h100",
        "sbatch": ["--comment=users"],
    }
    (tmp_path / "home" / "thalweg" / "site.yaml").write_text(yaml.safe_dump(users))
    site(
        run, partition="runs", qos="runs", gpus_per_node=8, memory="64Gi", time="1-12", constraint="a&b", exclusive=True
    )
    script = jobs(run, nodes="2-3", qos="options", time="90min").scripts()["train.sbatch"]
    assert set(directives(script)) >= {
        *("--account=users", "--partition=runs", "--qos=options", "--comment=users", "--gpus-per-node=h100:8"),
        *("--nodes=2-3", "--time=0-01:30:00", "--signal=B:USR1@300", "--requeue"),
        *("--mem=65536M", "--constraint='a&b'", "--exclusive", "--open-mode=append"),
        f"--output={tmp_path}/runs/t/slurm/%j.log",
    }
    assert "--dependency=singleton" not in script


def test_a_dry_run_prints_the_script_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    site(run, environment=["module load cuda"], scratch="/scratch/$USER", requeue=False, python="/opt/py thon")
    before = sorted(tmp_path.rglob("*"))
    out, _ = thalweg("submit", run, "--nodes", 2, "--processes-per-node", 3, "--dry-run", cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert {"--no-requeue", "--dependency=singleton", "--cpus-per-task=3"} <= set(directives(out))
    lines = out.splitlines()
    _, scratch, path = lines[lines.index("module load cuda") :][:3]
    assert scratch.startswith('export TMPDIR="/scratch/$USER"')
    assert path.startswith(f"export PYTHONPATH={tmp_path}/runs/t/snapshots/") and "/code" in path
    assert lines[-1] == f"exec '/opt/py thon' -P -m launcher.slurm.job {tmp_path}/runs/t"
    both, _ = thalweg("submit", run, "--nodes", 2, "--verify-resume", 20, "--dry-run", cwd=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert [f"runs/t-verify-resume/{name}" in both for name in ("straight", "killed")] == [True, True]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"acount": "x"}, "acount: is no known key; did you mean account?"),
        ({"container": {"kind": "pyxis", "imag": "x"}}, "container.imag: is no known key; did you mean image?"),
        ({"prepare": {"tme": "1h"}}, "prepare.tme: is no known key; did you mean time?"),
        ({"time": 43200}, "time: is a number to YAML, as 12:00:00 is; write it like 12h"),
        ({"time": "12x"}, "time: '12x' is no duration"),
    ],
)
def test_mistakes_of_a_site_are_told_with_file_and_key(run: Path, keys: dict[str, Any], said: str) -> None:
    site(run, **keys)
    with pytest.raises(InputError) as error:
        read_site(run, {})
    assert f"{run.parent}/site.yaml: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 5400), ("1:30", 90), ("12:00:00", 43200), ("1-12", 129600), ("1-0:30", 88200), ("2h", 7200)],
)
def test_a_limit_is_read_as_slurm_reads_it(run: Path, written: str, seconds: int) -> None:
    assert read_site(run, {"time": written}).time == seconds


def test_the_lead_is_three_times_the_longest_checkpoint_and_at_most_a_third_of_the_limit(run: Path) -> None:
    def lead(seconds: list[float], asked: float | None = None, **given: Any) -> int:
        lines = [json.dumps({"event": "checkpoint", "seconds": each}) + "\n" for each in seconds]
        (run.parent / "events.jsonl").write_text("".join(lines))
        return lead_of(run.parent, read_site(run, given), asked)

    assert (lead([]), lead([], lead=50), lead([], 70)) == (300, 50, 70)
    assert (lead([10, 20]), lead([10, 200.5, 20])) == (120, 601)
    assert lead([900, *[50] * 10]) == 150  # an outlier of long ago
    assert lead([200], time="10min") == 200


@pytest.mark.parametrize(
    ("assignments", "options", "said"),
    [
        (["data.mixture.d=1"], {}, "data.mixture.d: is not a source of"),
        (["parallel.sequence=2"], {"nodes": "2-4"}, "does not divide the 3 processes"),
        (TEXTS, {"nodes": "1-3"}, "--nodes: is 1-3, but web is read as text"),
        ([], {"nodes": "4-2"}, "--nodes: is '4-2'; write a number such as 16"),
        ([UNPREPARED], {}, "prepared/r is not there yet; give --prepare"),
        ([], {"prepare": True}, "--prepare: the run names no recipe"),
    ],
)
def test_what_cannot_run_is_refused_before_it_is_submitted(
    run: Path, assignments: list[str], options: dict[str, Any], said: str
) -> None:
    (run.parent / "texts.jsonl").write_text('{"text": "a few words"}\n' * 99)
    with pytest.raises(InputError, match=said):
        jobs(run, *assignments, **options)
    assert not (run.parent / "runs").exists()


@pytest.mark.parametrize("kind", ["pyxis", "enroot", "apptainer"])
def test_processes_run_in_the_container(run: Path, kind: str) -> None:
    site(run, container={"kind": kind, "image": "/i.sqsh", "mounts": ["/d:/d"]}, gpus_per_node=2, srun=["--mpi=none"])
    made = jobs(run)._submission()
    folders = [f"{run.parent}/{name}:{run.parent}/{name}" for name in ("runs/t", "prepared")]
    bound = ["--bind" if kind == "apptainer" else "--mount", "/d:/d"]
    assert made.python == "python3" and made.srun[-1] == "--mpi=none"
    if kind == "pyxis":
        assert made.srun[0] == "--container-image=/i.sqsh" and not made.wrapper
        assert f"--container-mounts=/d:/d,{','.join(folders)}" in made.srun
    else:
        bound += [word for folder in folders for word in (bound[0], folder)]
        assert list(made.wrapper[-len(bound) - 1 :]) == [*bound, "/i.sqsh"] and made.srun == ("--mpi=none",)
    assert f"exec {sys.executable} -P -m launcher.slurm.job" in jobs(run).scripts()["train.sbatch"]


def test_a_preparing_job_has_resources_and_a_recipe_of_its_own(run: Path) -> None:
    (run.parent / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    site(run, partition="gpu", constraint="h100", gpus_per_node=8, prepare={"partition": "cpu", "constraint": None})
    made = jobs(run, UNPREPARED, prepare=True)
    prepare, train = made.scripts().values()
    assert "--partition=gpu" in train and "--gpus-per-node=8" in train and "--constraint" not in prepare
    assert {"--partition=cpu", "--exclusive", "--nodes=1"} <= set(directives(prepare)) and "gpus" not in prepare
    snapshot = Snapshot(resolved(load_run(run, [UNPREPARED])))
    assert f"launcher.cli prepare {snapshot.recipe} --out {run.parent}/prepared/r " in prepare
    snapshot.write()
    assert yaml.safe_load(snapshot.recipe.read_text())["sources"]["a"]["paths"] == [f"{run.parent}/a.jsonl"]
    read = load_run(snapshot.config)
    assert (read.data.path, read.data.prepare) == (run.parent / "prepared" / "r", snapshot.recipe)


def test_the_same_code_is_copied_once(run: Path) -> None:
    first, other = (Snapshot(resolved(load_run(run, [f"train.lr={rate}"]))) for rate in (1e-3, 2e-3))
    first.write()
    files = {path: path.stat().st_ino for path in first.folder.rglob("*") if path.is_file()}
    other.write()
    assert {path: path.stat().st_ino for path in first.folder.rglob("*") if path.is_file()}.items() >= files.items()
    assert other.folder == first.folder and other.config != first.config
    assert load_run(first.config).train.lr == 1e-3 and load_run(other.config).train.lr == 2e-3


SLURM = {
    "squeue": "#!/bin/sh\ncat queue\n",
    "scancel": '#!/bin/sh\necho "$@" > cancelled\n',
    "sbatch": """#!/bin/sh
echo "$@" >> asked; env > shown
test ! -e full || test $(wc -l < asked) -lt 2 || { echo 'sbatch: error: too many jobs' >&2; exit 1; }
echo "$((100 + $(wc -l < asked)));cluster"
""",
}


@pytest.fixture
def slurm(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that note what they are asked, in the working directory."""
    (tmp_path / "bin").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm")
def test_a_chain_is_submitted_or_none_of_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HUSH_KEY", "hush!"), ("SBATCH_PARTITION", "other"), ("PYTHONPATH", "other")):
        monkeypatch.setenv(name, value)
    site(run, variables=["HUSH_*"], requeue=False, chain=2)
    made = jobs(run, nodes="1-2")
    assert made.submit() == [("train", "101"), ("train", "102")]
    script = tmp_path / "runs" / "t" / "slurm" / "train.sbatch"
    waits = "--parsable --dependency=singleton --kill-on-invalid-dep=yes"
    assert (tmp_path / "asked").read_text() == f"{waits} {script}\n" * 2
    shown = dict(line.partition("=")[::2] for line in (tmp_path / "shown").read_text().splitlines())
    assert shown["HUSH_KEY"] == "hush!" and not {"SBATCH_PARTITION", "PYTHONPATH"} & shown.keys()
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and b"hush!" in path.read_bytes()]
    noted = [json.loads(line)["job"] for line in script.with_name("jobs.jsonl").read_text().splitlines()]
    job = read_submission(tmp_path / "runs" / "t")
    assert noted == ["101", "102"] and job.nodes == (1, 2) and not job.requeue

    (tmp_path / "queue").write_text("101\n102\n")
    with pytest.raises(InputError, match="runs/t: is in the queue already as job 101, 102; wait for it, or end it"):
        made.submit()
    (tmp_path / "queue").write_text("")
    (tmp_path / "asked").unlink()
    (tmp_path / "full").touch()
    with pytest.raises(RunError) as error:
        made.submit()
    assert str(error.value) == f"{script}: sbatch failed: too many jobs"
    assert (tmp_path / "cancelled").read_text() == "101\n"
    assert len(script.with_name("jobs.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_job_runs_the_snapshot_whatever_becomes_of_the_checkout(run: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for part in PARTS:
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    (checkout / "launcher" / "logs.py").open("a").write("# edited\n")
    asked = ["submit", run, "--nodes", 1, "train.tokens=160"]
    out, _ = thalweg(*asked, cwd=tmp_path, PYTHONPATH=str(checkout))
    assert out.startswith("train: job 101\n") and "thalweg status runs/t" in out
    for path in checkout.rglob("*.py"):
        path.write_text("raise SystemExit('the checkout')")

    job = read_submission(tmp_path / "runs" / "t")
    code = Path(job.snapshot) / "code"
    assert (code / "commit").read_text().endswith("-dirty") and "+# edited" in (code / "changes.diff").read_text()
    assert f"export PYTHONPATH={code}$" in (tmp_path / "runs" / "t" / "slurm" / "train.sbatch").read_text()
    command = [job.python, "-P", "-v", "-m", "launcher.cli", "train", job.config]
    variables = environment(PYTHONPATH=str(code))
    done = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = [
        line
        for line in done.stderr.splitlines()
        if any(f"code object from '{each / part}/" in line for each in (checkout, ROOT) for part in PARTS)
    ]
    assert not ours and f"{code}/training/loop.py" in done.stderr
    described = json.loads((tmp_path / "runs" / "t" / "environment.json").read_text())
    assert described["commit"] == (code / "commit").read_text()
