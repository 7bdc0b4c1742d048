from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config import FileSource
from data_pipeline.errors import InputError
from launcher.config import RunConfig, load_recipe, load_run

RUN = """\
name: small
model: {n_layer: 2, n_head: 2, d_model: 16, n_ctx: 64, vocab_size: 300}
data: {path: prepared, mixture: {books: 0.6, web_pages: 0.4}}
train: {tokens: 1M, batch_tokens: 1Ki, lr: 3e-4}
"""

# Section 3 of the design without the keys that are still to come.
DESIGN = """\
name: gpt3-125m
seed: 1234
run_dir: runs/gpt3-125m      # default runs/<name>
model:
  preset: gpt3-125m          # any field below overrides it
data:
  path: prepared/
  mixture:
    common_crawl: 0.60
    webtext: 0.22
    books: 0.16
    wikipedia: 0.03
train:
  tokens: 300G
  batch_tokens: 512Ki
  micro_batch: 8
  lr: 6.0e-4
  warmup_tokens: 375M
  decay_tokens: 260G
  min_lr_ratio: 0.1
zero: {stage: 1}
checkpoint: {every: 30min, keep: {last: 3}}
"""

RECIPE = """\
tokenizer: {train: {vocab_size: 1000}}
sources:
  web: {kind: warc, paths: [crawl/*.warc.gz, more]}
  rows: {kind: jsonl, paths: [rows.jsonl]}
  far: {kind: hub, dataset: some/where}
  own: {kind: books, sample: docstrings}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a file below the test's folder and gives its path."""

    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def mistakes_of(load: Any, path: Path, *further: Any) -> list[str]:
    """The lines of the answer to a wrong file, without the name of the file that each begins with."""
    with pytest.raises(InputError) as caught:
        load(path, *further)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_design_example(write: Any, tmp_path: Path) -> None:
    config = load_run(write(DESIGN))
    assert (config.train.tokens, config.train.batch_tokens) == (300 * 10**9, 2**19)
    assert (config.train.warmup_tokens, config.train.decay_tokens) == (375 * 10**6, 260 * 10**9)
    assert config.train.lr == 6e-4
    assert (config.model.n_layer, config.model.d_model, config.model.vocab_size) == (12, 768, 50257)
    assert config.sequences == 256
    assert config.checkpoint.every == 1800
    assert config.data.path == tmp_path / "prepared"
    assert config.data.mixture == {"common_crawl": 0.6, "webtext": 0.22, "books": 0.16, "wikipedia": 0.03}
    assert config.folder == Path("runs/gpt3-125m")


def test_defaults(write: Any) -> None:
    config = load_run(write(RUN))
    assert config.folder == Path("runs/small")
    assert (config.seed, config.zero.stage, config.train.precision) == (1234, 1, "bf16")
    assert config.checkpoint.every == 1800
    assert config.validation.every_tokens is None


def test_overrides_reach_every_section(write: Any) -> None:
    assignments = [
        "train.lr=1e-3", "train.betas=[0.8, 0.9]", "model.n_layer=1", "zero.stage=3", "checkpoint.every=2h",
        "checkpoint.keep.last=1", "data.mixture.books=1", "metrics.every_steps=10", "validation.every_tokens=1M",
    ]  # fmt: skip
    config = load_run(write(RUN), assignments)
    assert (config.train.lr, config.train.betas, config.model.n_layer) == (1e-3, (0.8, 0.9), 1)
    assert (config.zero.stage, config.checkpoint.every, config.checkpoint.keep.last) == (3, 7200, 1)
    assert config.data.mixture == {"books": 1, "web_pages": 0.4}
    assert (config.metrics.every_steps, config.validation.every_tokens) == (10, 10**6)


def test_override_may_take_back_a_value(write: Any) -> None:
    assert load_run(write(RUN), ["checkpoint.every=null"]).checkpoint.every is None


def test_paths_are_relative_to_the_file_they_stand_in(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(RUN.replace("path: prepared", "path: prepared, prepare: ../recipe.yaml"), "base/base.yaml")
    above = write("extends: ../base/base.yaml\ndata: {prepare: own.yaml}\n", "runs/run.yaml")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    data = load_run(above).data
    assert data.path == tmp_path / "base" / "prepared"
    assert data.prepare == tmp_path / "runs" / "own.yaml"
    # Also when the file itself is named relative to the working directory.
    assert load_run(Path("../runs/run.yaml")).data == data
    below = load_run(Path("../base/base.yaml")).data.prepare
    assert below is not None
    assert below.resolve() == tmp_path / "recipe.yaml"


def test_run_dir_and_overrides_are_relative_to_the_working_directory(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("run_dir: here/run\n" + RUN, "deep/run.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_run(path).folder.absolute() == tmp_path / "here/run"
    config = load_run(path, ["run_dir=there", "data.path=mine"])
    assert config.folder.absolute() == tmp_path / "there"
    assert config.data.path is not None
    assert config.data.path.absolute() == tmp_path / "mine"


def test_absolute_paths_and_home_stay(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    assert load_run(write(RUN.replace("path: prepared", "path: /data/prepared"))).data.path == Path("/data/prepared")
    assert load_run(write(RUN.replace("path: prepared", "path: ~/prepared"))).data.path == tmp_path / "home/prepared"
    config = load_run(write(RUN.replace("path: prepared", 'path: "${SCRATCH}/x"')))
    assert config.data.path == tmp_path / "scratch/x"


def test_home_of_nobody_is_named(write: Any) -> None:
    (line,) = mistakes_of(load_run, write(RUN.replace("path: prepared", "path: ~nobody-of-this-name/x")))
    assert line.startswith("data.path: ")


def test_home_is_known_in_overrides_too(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell does not expand the ~ of data.path=~/prepared: it does not begin the word."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_run(write(RUN), ["data.path=~/prepared"]).data.path == tmp_path / "home/prepared"


def test_prepared_folder_of_a_recipe(write: Any) -> None:
    config = load_run(write(RUN.replace("path: prepared", "prepare: recipes/web.yaml")))
    assert config.data.folder == Path("prepared/web")


def test_paths_of_a_recipe(write: Any, tmp_path: Path) -> None:
    write(RECIPE, "base/data.yaml")
    recipe = load_recipe(write("extends: base/data.yaml\ntokenizer: {train: null, path: tok}\n", "data.yaml"))
    assert recipe.tokenizer.path == tmp_path / "tok"
    web = recipe.sources["web"]
    assert isinstance(web, FileSource)
    assert web.paths == [tmp_path / "base/crawl/*.warc.gz", tmp_path / "base/more"]


@pytest.mark.parametrize(
    ("wrong", "key", "nearest"),
    [
        ("sead=1", "sead", "seed"),
        ("trian.lr=1", "trian", "train"),
        ("model.n_layers=1", "model.n_layers", "n_layer"),
        ("model.prest=gpt3-125m", "model.prest", "preset"),
        ("data.pth=x", "data.pth", "path"),
        ("train.batch_token=1", "train.batch_token", "batch_tokens"),
        ("train.warmup=1", "train.warmup", "warmup_tokens"),
        ("zero.stages=1", "zero.stages", "stage"),
        ("checkpoint.evry=1h", "checkpoint.evry", "every"),
        ("checkpoint.keep.lst=1", "checkpoint.keep.lst", "last"),
        ("validation.every_token=1", "validation.every_token", "every_tokens"),
        ("metrics.every_step=1", "metrics.every_step", "every_steps"),
    ],
)
def test_unknown_key_of_a_run_is_answered_with_the_nearest(write: Any, wrong: str, key: str, nearest: str) -> None:
    assert mistakes_of(load_run, write(RUN), [wrong]) == [f"{key}: is no known key; did you mean {nearest}?"]


def test_unknown_key_near_none_is_answered_with_all(write: Any) -> None:
    (line,) = mistakes_of(load_run, write(RUN), ["drift.qqq=1"])
    assert line == "drift.qqq: is no known key; valid here: every_steps"


@pytest.mark.parametrize(
    ("source", "key", "nearest"),
    [
        ("{kind: warc, paths: [x], pths: [x]}", "pths", "paths"),
        ("{kind: wet, sampel: docstrings, paths: [x]}", "sampel", "sample"),
        ("{kind: parquet, paths: [x], textkey: t}", "textkey", "text_key"),
        ("{kind: hub, dataset: a/b, max_document: 5}", "max_document", "max_documents"),
    ],
)
# A source may bear the name of a kind, of a key, or of neither.
@pytest.mark.parametrize("name", ["a", "warc", "hub", "paths", "kind"])
def test_unknown_key_of_a_source_is_answered_with_the_nearest(
    write: Any, name: str, source: str, key: str, nearest: str
) -> None:
    path = write(f"tokenizer: {{hub: x}}\nsources:\n  {name}: {source}\n")
    assert mistakes_of(load_recipe, path) == [f"sources.{name}.{key}: is no known key; did you mean {nearest}?"]


@pytest.mark.parametrize(
    ("wrong", "key", "nearest"),
    [
        ("shard_token: 5\n", "shard_token", "shard_tokens"),
        ("damaged_fils: keep\n", "damaged_fils", "damaged_files"),
    ],
)
def test_unknown_key_of_a_recipe_is_answered_with_the_nearest(write: Any, wrong: str, key: str, nearest: str) -> None:
    lines = mistakes_of(load_recipe, write(RECIPE + wrong))
    assert lines == [f"{key}: is no known key; did you mean {nearest}?"]


def test_unknown_key_of_a_tokenizer_is_answered_with_the_nearest(write: Any) -> None:
    path = write(RECIPE.replace("{vocab_size: 1000}", "{vocab_size: 1000, byte_per_source: 5}"))
    assert mistakes_of(load_recipe, path) == [
        "tokenizer.train.byte_per_source: is no known key; did you mean bytes_per_source?"
    ]


def test_mistakes_are_named_all_at_once(write: Any) -> None:
    lines = mistakes_of(
        load_run, write(RUN.replace("tokens: 1M, ", "")), ["train.lr=fast", "model.n_headz=2", "zero.stage=7"]
    )
    assert len(lines) == 4
    assert "model.n_headz: is no known key; did you mean n_head?" in lines
    assert "train.tokens: is missing" in lines
    assert any(line.startswith("train.lr: ") and "'fast'" in line for line in lines)
    assert any(line.startswith("zero.stage: ") and "7" in line for line in lines)


def test_value_over_several_lines_is_told_in_one(write: Any) -> None:
    path = write(RUN.replace("lr: 3e-4", 'lr: "a\\nb\\nc"'))
    (line,) = mistakes_of(load_run, path)
    assert line.startswith("train.lr: ")


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("{kind: warc}", "sources.a"),
        ("{kind: warc, paths: [x], sample: docstrings}", "sources.a"),
        ("{kind: jsonl, paths: []}", "sources.a.paths"),
        ("{kind: jsonl, paths: [5]}", "sources.a.paths.0"),
        ("{kind: hub}", "sources.a.dataset"),
        ("{paths: [x]}", "sources.a.kind"),
        ("{kind: tar, paths: [x]}", "sources.a.kind"),
        ("5", "sources.a"),
    ],
)
def test_mistake_in_a_source_is_named_without_its_kind(write: Any, source: str, key: str) -> None:
    (line,) = mistakes_of(load_recipe, write(f"tokenizer: {{hub: x}}\nsources:\n  a: {source}\n"))
    assert line.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("batch_tokens", "nearest"), [(100, "64 or 128"), (127, "64 or 128"), (10, "64"), (65, "64 or 128")]
)
def test_batch_of_no_whole_sequences_is_answered_with_the_nearest(write: Any, batch_tokens: int, nearest: str) -> None:
    (line,) = mistakes_of(load_run, write(RUN), [f"train.batch_tokens={batch_tokens}"])
    assert f"train.batch_tokens {batch_tokens}" in line
    assert line.endswith(f"nearest: {nearest}")


def test_heads_that_do_not_divide_the_width_are_named(write: Any) -> None:
    (line,) = mistakes_of(load_run, write(RUN), ["model.n_head=3"])
    assert line.startswith("model: d_model 16 is no multiple of n_head 3")


def test_unknown_preset_is_answered_with_those_there_are(write: Any) -> None:
    (line,) = mistakes_of(load_run, write(RUN), ["model.preset=gpt4"])
    assert line.startswith("model: there is no preset gpt4")
    assert "gpt3-125m" in line


@pytest.mark.parametrize("good", ["none", "selective", 1, 96])
def test_activation_checkpointing_is_a_policy_or_every_so_many(write: Any, good: object) -> None:
    assert load_run(write(RUN), [f"train.activation_checkpointing={good}"]).train.activation_checkpointing == good


@pytest.mark.parametrize("wrong", ["all", 0, -1, "true", 1.5])
def test_another_activation_checkpointing_is_answered_in_one_line(write: Any, wrong: object) -> None:
    (line,) = mistakes_of(load_run, write(RUN), [f"train.activation_checkpointing={wrong}"])
    assert line.startswith("train.activation_checkpointing: should be none, selective or a whole number k from 1 on")


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("zero.stage=3", "zero.stage 3"),
        ("train.activation_checkpointing=selective", "activation_checkpointing selective"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(write: Any, setting: str, key: str) -> None:
    (line,) = mistakes_of(load_run, write(RUN), ["train.compile=true", setting])
    assert line.startswith("train.compile true does not go with") and key in line
    load_run(write(RUN), [setting])
    load_run(write(RUN), ["train.compile=true", "train.activation_checkpointing=2"])


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "a/b", '"x\\n"'])
def test_name_is_fit_for_a_folder(write: Any, name: str) -> None:
    (line,) = mistakes_of(load_run, write(RUN.replace("name: small", f"name: {name}")))
    assert line.startswith("name: ")


@pytest.mark.parametrize("name", ["5", "32k", "1e5", "2024-01-01", "true"])
def test_name_that_yaml_takes_for_something_else_is_to_be_quoted(write: Any, name: str) -> None:
    (line,) = mistakes_of(load_run, write(RUN.replace("name: small", f"name: {name}")))
    assert line.startswith("name: should be text; put it in quotes")
    assert load_run(write(RUN.replace("name: small", f"name: '{name}'"))).name == name


def test_source_name_that_yaml_takes_for_a_number_is_to_be_quoted(write: Any) -> None:
    (line,) = mistakes_of(load_run, write(RUN.replace("books: 0.6", "32k: 0.6")))
    assert line.startswith("data.mixture.32000")
    assert "should be text; put it in quotes" in line


@pytest.mark.parametrize("section", ["model", "data", "train", "zero"])
@pytest.mark.parametrize("wrong", ["5", "text", "[1]"])
def test_section_that_is_no_mapping_is_named(write: Any, section: str, wrong: str) -> None:
    tree = yaml.safe_load(RUN) | {section: yaml.safe_load(wrong)}
    (line,) = mistakes_of(load_run, write(yaml.safe_dump(tree)))
    assert line.startswith(f"{section}: ")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("data.mixture={}", "data.mixture: "),
        ("data.mixture=null", "data: give one of mixture, alpha and phases"),
        ("data={mixture: {books: 1}, alpha: 0.5}", "data: give one of mixture, alpha and phases"),
        ("data={phases: [{weights: {books: 1}, alpha: 1}]}", "data.phases.0: give either weights or alpha"),
        ("data={mixture: {books: -1}}", "data.mixture.books: Input should be greater than or equal to 0"),
        ("data={max_epochs: {books: 0}, mixture: {books: 1}}", "data.max_epochs.books: Input should be greater"),
        ("data={path: 's3://b/p', mixture: {books: 1}}", "data: path is a URL: give cache, such as"),
        ("data={path: 'https://me:hush@h/p', mixture: {books: 1}}", "data.path: holds a user or password"),
        ("data={mixture: {books: 1}, storage: {anon: true}}", "data: storage is for a path that is read through cache"),
        ("data={path: null, mixture: {books: 1}}", "data: give path (a prepared folder), prepare (a recipe) or sour"),
        ("data={mixture: {books: 1}, sources: {x: {kind: megatro}}}", "data.sources.x.kind: is 'megatro'; valid are"),
        ("data={mixture: {books: 1}, sources: {x: {kind: olmo, pats: [a]}}}", "data.sources.x.pats: is no known key"),
    ],
)
def test_what_is_wrong_with_the_data_is_named(write: Any, wrong: str, said: str) -> None:
    lines = mistakes_of(load_run, write(RUN.replace("mixture: {books: 0.6, web_pages: 0.4}", "")), [wrong])
    assert any(line.startswith(said) for line in lines), lines


@pytest.mark.parametrize(
    "url", ["s3://bucket/prepared", "abfs://box@account.dfs.core.windows.net/p", "http://h:8080/p", "a::file:///p"]
)
def test_a_url_stays_a_url_and_a_path_is_beside_its_file(write: Any, url: str) -> None:
    cached = [f"data.path={url}", "data.cache={path: /scratch/cache, size: 200G}"]
    config = load_run(write(RUN), cached)
    assert (config.data.path, config.data.cache.size) == (url, 200 * 10**9)
    path = write(config.dump())
    assert load_run(path).data == config.data
    phases = RUN.replace(
        "mixture: {books: 0.6, web_pages: 0.4}", "phases: [{until_tokens: 5M, weights: {a: 1}}, {alpha: 1}]"
    )
    assert load_run(write(phases)).data.phases[0].until_tokens == 5_000_000


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_seed_is_one_of_torchs(write: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(load_run(write(RUN), [f"seed={seed}"]).seed)
    assert generator.initial_seed() == seed


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_that_torch_refuses_is_named(write: Any, seed: int) -> None:
    (line,) = mistakes_of(load_run, write(RUN), [f"seed={seed}"])
    assert line.startswith("seed: ")


def test_every_required_key_is_asked_for(write: Any) -> None:
    assert set(mistakes_of(load_run, write("seed: 1\n"))) == {
        f"{key}: is missing" for key in ("name", "model", "data", "train")
    }


@pytest.mark.parametrize("text", [RUN, DESIGN])
def test_dump_reads_back_equal(write: Any, text: str) -> None:
    config = load_run(write(text))
    dumped = write(config.dump(), "runs/x/config.yaml")
    assert load_run(dumped) == config
    assert load_run(dumped).dump() == config.dump()


def test_dump_reads_back_equal_after_overrides_of_every_kind(write: Any) -> None:
    config = load_run(
        write(RUN),
        ["train.betas=[0.8, 0.9]", "train.eps=1e-12", "checkpoint.every=90s", "model.d_ff=7", "run_dir=out", "seed=5"],
    )
    assert load_run(write(config.dump(), "runs/x/config.yaml")) == config


@pytest.mark.parametrize("assignment", ["data.path=prepared", "data.prepare=recipe.yaml"])
def test_path_of_an_override_survives_the_dump(write: Any, assignment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dump stands in the run folder: a path relative to the working directory would turn into another."""
    path = write(RUN)
    monkeypatch.chdir(path.parent)
    config = load_run(path, [assignment])
    assert load_run(write(config.dump(), "runs/x/config.yaml")).data == config.data


# Names as users give them: 125M, 1e5, 2024-01-01, yes, 0x1f are other things to YAML unless quoted.
NAMES = st.one_of(
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z"),
    st.from_regex(r"\A[0-9]{1,3}(\.[0-9])?(k|M|G|T|Ki|Mi|Gi|Ti)\Z"),
    st.from_regex(r"\A[0-9]{1,3}e-?[0-9]{1,2}\Z"),
    st.sampled_from(["yes", "no", "null", "true", "1", "1.5", "0x1f", "010", "2024-01-01", "1_000"]),
)


@given(NAMES, st.lists(NAMES, min_size=1, max_size=3, unique=True), st.floats(1e-12, 1), st.integers(0, 2**60))
def test_dump_reads_back_equal_whatever_the_names(
    tmp_path_factory: pytest.TempPathFactory, name: str, sources: list[str], lr: float, seed: int
) -> None:
    config = RunConfig.model_validate(
        {
            "name": name,
            "seed": seed,
            "model": {"n_layer": 2, "n_head": 2, "d_model": 16, "n_ctx": 64},
            "data": {"path": "/prepared", "mixture": dict.fromkeys(sources, lr)},
            "train": {"tokens": 1000, "batch_tokens": 64, "lr": lr},
        }
    )
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(config.dump())
    assert load_run(path) == config


def test_dump_holds_every_default(write: Any) -> None:
    tree = yaml.safe_load(load_run(write(RUN)).dump())
    assert set(tree) == set(RunConfig.model_fields)
    assert tree["checkpoint"]["keep"] == {"last": 3, "every_tokens": None, "bytes": None}
    assert tree["train"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("data.path=https://me:hush@h/p", "data.path: holds a user or password"),
        ("data.path=https://me:a@hush@h/p", "data.path: holds a user or password"),
        ("data.path=https://me:hu hush@h/p", "data.path: holds a user or password"),
        ("data.path=s3://me:hush/hush+x@h/p", "data.path: holds a user or password"),
        ("data.path=[https://me:hush@h/p]", "data.path"),
        ("data.path={url: 's3://b', secret: hush}", "data.path"),
        ("data.storage=hush", "data.storage: "),
        ("data.storage=[hush]", "data.storage: "),
        ("data.storage={[hush]: hush}", "data.storage=…: "),
        ("data.storage={key: hush, secret: 'hush}", "data.storage=…: "),
        ("data.storage={secret: *hush}", "data.storage=…: "),
        ("data.storage={secret: !hush hush}", "data.storage=…: "),
        ("data.storage={secret: !hush!x hush}", "data.storage=…: "),
        ("data.storage={secret: &hush a, other: &hush b}", "data.storage"),
        ("data.storage:{secret: hush}", "'data.storage': is no assignment"),
        ("data.storage:{secret: hush==}", "'data.storage': is no assignment"),
        ("data..storage={secret: hush}", "'data..storage': is no assignment"),
        ("data.storge={secret: hush}", "data.storge: is no known key; did you mean storage?"),
        ("data={path: p, storage: {secret: hush}}", "data: "),
        ("data=[{storage: {secret: hush}}]", "data: "),
        ("data=https://me:hush@h/p", "data: "),
        ("data={path: p, https://me:hush@h/p}", "data.https://h/p: is no known key"),
        ("data.cache=s3://me:hush@h/p", "data.cache: "),
        ("data.cache={path: s3://me:hush@h/p, size: 1G}", "data.cache.path: is a URL; name a file or folder of this"),
        ("data.path=S3://me:hush@h/p", "data.path: holds a user or password"),
        ("data.path=simplecache::s3://me:hush@h/p", "data.path: holds a user or password"),
    ],
)
def test_no_mistake_shows_a_secret(write: Any, wrong: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        load_run(write(RUN), [wrong])
    assert said in str(error.value) and "hush" not in str(error.value)


@pytest.mark.parametrize("value", ["{key: hush, secret: 'hush}", "{secret: *hush}", "[hush}", "@hush", "a: hush"])
def test_no_mistake_of_yaml_shows_a_secret(write: Any, value: str) -> None:
    path = write(RUN.replace("data: {path: prepared,", f"data: {{storage: {value}, path: prepared,"))
    with pytest.raises(InputError, match=rf"^{path}: .*, in line \d, column \d+$") as error:
        load_run(path)
    assert "hush" not in str(error.value)


def test_a_secret_of_the_environment_is_not_shown_either(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_SECRET", "hush")
    for wrong in ("data.storage=${THALWEG_SECRET}", "data.path=s3://me:${THALWEG_SECRET}@h/p"):
        with pytest.raises(InputError) as error:
            load_run(write(RUN), [wrong])
        assert "hush" not in str(error.value)
