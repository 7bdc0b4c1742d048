"""`thalweg shrink`: the file of a twin, its data, and the twin of the 175 billion on this machine."""

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import InputError
from folder import write_folder
from launcher.config import load_recipe, load_run
from launcher.shrink import write_twin
from processes import VOCAB_SIZE, events, metrics, thalweg, write_run
from training.batch_ramp import batch_sequences

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GPT3 = CONFIGS / "gpt3-175b.yaml"
SOURCES = ["common_crawl", "webtext", "books1", "books2", "wikipedia"]


def shrunk(run: Path, out: Path, data: Path | None = None, *assignments: str) -> list[str]:
    _, lines = write_twin(run, load_run(run, list(assignments)), out, 2, data)
    return lines


def test_a_twin_may_lie_elsewhere_and_reads_the_data_of_its_run(tmp_path: Path) -> None:
    """What a run extends is in it, and paths are those that they were."""
    run = write_run(tmp_path / "here")
    above = tmp_path / "here" / "above.yaml"
    above.write_text("extends: run.yaml\nname: above\nmodel: {n_layer: 9, vocab_size: 300}\n")
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / "twin.yaml"
    assert shrunk(above, out, None, "train.lr=5e-3") == []
    text, twin = out.read_text(), load_run(out)
    assert text.startswith(f"# A twin of {above} for 2 processes of a CPU") and "depth 1/2.25" in text
    assert (twin.name, twin.run_dir, twin.train.lr) == ("above-twin", None, 5e-3)
    assert twin.data == load_run(run).data and "extends" not in yaml.safe_load(text)
    assert (twin.model.n_layer, twin.model.vocab_size) == (4, VOCAB_SIZE)  # that of the tokenizer


def test_a_file_that_is_no_twin_stays(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    before = run.read_text()
    with pytest.raises(InputError, match=r"run\.yaml: is there already and no twin; name another --out$"):
        shrunk(run, run)
    with pytest.raises(InputError, match=r"none is no folder; make it first"):
        shrunk(run, tmp_path / "none" / "twin.yaml")
    (tmp_path / "twin-data.yaml").write_text("sources: {}\n")
    with pytest.raises(InputError, match=r"twin-data\.yaml: is there already"):
        shrunk(GPT3, tmp_path / "twin.yaml")
    for _ in range(2):  # a twin takes the place of one
        shrunk(run, tmp_path / "twin.yaml")
    assert run.read_text() == before and (tmp_path / "twin-data.yaml").read_text() == "sources: {}\n"


def test_a_run_in_the_way_of_a_twin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch would go on from it, or find that nothing is left to do."""
    monkeypatch.chdir(tmp_path)
    run, out = write_run(tmp_path), tmp_path / "twin.yaml"
    assert shrunk(run, out) == []
    whole = load_run(out).folder / "checkpoints" / "step-0000008"
    whole.mkdir(parents=True)
    (whole / "manifest.json").write_text("{}")
    [line] = shrunk(run, out)
    assert line.endswith("remove the folder first") and "step-0000008" in line and line not in out.read_text()


def test_a_mistake_in_data_that_are_there_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for assignment, message in (
        ("data.mixture.d=1", "data.mixture.d: is not a source of"),
        ("model.vocab_size=200", "model.vocab_size: is 200, but the tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            shrunk(run, tmp_path / "twin.yaml", None, assignment)
    assert not (tmp_path / "twin.yaml").exists()


def test_data_that_are_not_there_get_a_recipe_that_stands_in(tmp_path: Path) -> None:
    """With the sources of the mixture; both files may be moved together."""
    out = tmp_path / "twin.yaml"
    [line, epochs] = shrunk(GPT3, out, None, "data.max_epochs={wikipedia: 4}", "model.end_of_text=50256")
    assert "prepared/gpt3 is not there" in line and f"# {line}\n# {epochs}\n" in out.read_text()
    assert epochs.startswith("data.max_epochs is left out")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("twin.yaml", "twin-data.yaml"):
        (tmp_path / name).rename(moved / name)
    twin = load_run(moved / "twin.yaml")
    assert twin.data.path is None and twin.data.prepare == moved / "twin-data.yaml" and twin.data.max_epochs == {}
    recipe = load_recipe(moved / "twin-data.yaml")
    assert list(recipe.sources) == SOURCES and recipe.tokenizer.train is not None and recipe.validation_fraction
    assert recipe.tokenizer.train.vocab_size == twin.model.vocab_size and twin.model.end_of_text is None


def test_a_recipe_of_samples_is_prepared_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing is prepared
    assert shrunk(CONFIGS / "smoke.yaml", tmp_path / "twin.yaml") == []
    assert load_run(tmp_path / "twin.yaml").data == load_run(CONFIGS / "smoke.yaml").data


def test_a_folder_for_data_has_all_sources(tmp_path: Path) -> None:
    write_folder(tmp_path / "some", {"webtext": [500]}, VOCAB_SIZE)
    with pytest.raises(InputError, match=r"--data .*some: has no source common_crawl, .* it has webtext$"):
        shrunk(GPT3, tmp_path / "twin.yaml", tmp_path / "some")
    of_phases = ["data.mixture=null", "data.phases=[{weights: {news: 1}}]"]
    with pytest.raises(InputError, match="has no source news"):
        shrunk(GPT3, tmp_path / "twin.yaml", tmp_path / "some", *of_phases)
    with pytest.raises(InputError, match=r"manifest\.json: is missing, there is no such folder"):
        shrunk(GPT3, tmp_path / "twin.yaml", tmp_path / "none")


def test_a_store_that_has_nothing_is_stood_in_for(tmp_path: Path) -> None:
    given = ["data.path=memory://none/such", f"data.cache={{path: {tmp_path}/cache, size: 1G}}"]
    [line] = shrunk(GPT3, tmp_path / "twin.yaml", None, *given)
    assert "memory://none/such is not there" in line and load_run(tmp_path / "twin.yaml").data.cache is None


def test_token_files_without_their_tokenizer_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(bytes(100))
    source = f"{{t: {{kind: nanogpt, paths: [{tmp_path}/t.bin], tokenizer: {tmp_path}/none.json}}}}"
    given = ["data.path=null", "data.mixture=null", "data.alpha=1", f"data.sources={source}"]
    [line] = shrunk(GPT3, tmp_path / "twin.yaml", None, *given)
    assert "data.sources.t is not there" in line
    assert list(load_recipe(tmp_path / "twin-data.yaml").sources) == ["t"]


@pytest.mark.slow
def test_the_twin_of_the_175_billion_trains_here(tmp_path: Path) -> None:
    """Sharded as it is, by two processes, to its end: its ramp, its rates, validations and checkpoints as scaled."""
    tokenizer = (write_run(tmp_path / "small").parent / "prepared" / "tokenizer.json").read_text()
    write_folder(tmp_path / "data", {name: [5000] for name in SOURCES}, VOCAB_SIZE, validation=400, tokenizer=tokenizer)
    policies = ["checkpoint.every_tokens=50G", "validation.every_tokens=30G", "drift.every_steps=0"]
    out, _ = thalweg("shrink", GPT3, "--out", "twin.yaml", "--data", "data", *policies, cwd=tmp_path)
    assert "174,600,720,384" in out and "thalweg launch twin.yaml --processes 2" in out
    thalweg("launch", "twin.yaml", "--processes", 2, cwd=tmp_path)
    run, twin = load_run(GPT3, policies), load_run(tmp_path / "twin.yaml")
    factor, n_ctx = Fraction(twin.train.tokens, run.train.tokens), twin.model.n_ctx
    lines, told = metrics(tmp_path / "runs/gpt3-175b-twin"), events(tmp_path / "runs/gpt3-175b-twin")
    assert told[-1]["event"] == "end" and told[-1]["tokens"] >= twin.train.tokens and told[0]["processes"] == 2
    validated = [line["tokens"] for line in lines if "validation_loss_by_source" in line]
    assert [each // int(30e9 * factor) for each in validated] == [*range(1, 11)]
    saved = [each["tokens"] for each in told if each["event"] == "checkpoint"]
    assert {each // int(50e9 * factor) for each in saved} >= {*range(1, 7)}
    assert twin.train.ramp is not None and batch_sequences(twin.train, n_ctx, 0) == 1
    before_full = [line for line in lines if line["tokens"] - line["batch_tokens"] < twin.train.ramp.over_tokens]
    assert all(line["batch_tokens"] == twin.train.batch_tokens for line in lines[len(before_full) :])
    assert set(lines[-1]["share_by_source"]) == set(SOURCES)
