"""One contender of benchmarks/stream.py, in a process that is made for one measurement.

Run as `python stream_contenders.py JOB`, JOB being a `Job` as JSON; the answer is one line of JSON on stdout. The file
is also run by environments without Thalweg, so it imports nothing but torch and NumPy at its top.
"""

import hashlib
import itertools
import json
import os
import pickle
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

HAS_TORCH = time.perf_counter()
"""When torch and NumPy, which every training process imports, were there."""
WEIGHTS = {"a": 0.6, "b": 0.3, "c": 0.1}
SEED, BATCH, WINDOW, VOCAB_SIZE = 1, 8, 2049, 50257
WARM_UP = 20
"""Batches after the first that are not measured."""


@dataclass(frozen=True)
class Job:
    """What a process has to do."""

    contender: str
    """A name of CONTENDERS, and perhaps a variant behind it, such as "hf stream"."""
    workers: int
    task: str
    """A name of TASKS."""
    folder: str
    """Where each format has its folder."""
    batches: int
    """Batches of one pass over the data."""
    resume_at: int
    """The batch that a resumed process begins with, counted from 0."""
    seconds: float
    """How long throughput is measured, if the pass does not end before."""
    state: str
    """The file that keeps what is needed to resume."""
    started: float
    """time.monotonic() when the process was started."""

    @property
    def kind(self) -> str:
        """The name of CONTENDERS."""
        return self.contender.split()[0]

    def path(self, format: str) -> Path:
        """The folder of a format."""
        return Path(self.folder) / format


@dataclass
class Running:
    """An open stream."""

    batches: Iterator[Tensor]
    """int64 [BATCH, WINDOW] each."""
    state: Callable[[int], Any]
    """What is kept to go on behind so many batches that were delivered since the beginning."""
    close: Callable[[], object] = lambda: None
    is_endless: bool = False
    """Goes on with another pass, so that it can be measured for longer than one takes."""


Open = Callable[[Any], Running]
"""Opens a stream where its state says, or at the beginning for None; called when everything is imported."""


def thalweg(job: Job) -> Open:
    """Ours: one thread reads ahead, there are no workers."""
    from data_pipeline.config import DataConfig
    from data_pipeline.loader import Loader
    from data_pipeline.opening import open_stream
    from data_pipeline.stream import StreamState

    def open_at(state: Any) -> Running:
        stream = open_stream(DataConfig(path=job.path("thalweg"), mixture=WEIGHTS), SEED, n_ctx=WINDOW - 1)
        loader = Loader(stream, StreamState(state or 0), sequences=BATCH, micro_batch=BATCH)
        batches = (batch.micro_batches[0].tokens for batch in loader)
        return Running(batches, lambda delivered: delivered * BATCH, loader.close, is_endless=True)

    return open_at


def numpy(job: Job) -> Open:
    """A bare gather from memory maps at random places, drawn before for the whole pass: the bound for a copy."""

    def open_at(state: Any) -> Running:
        maps = [np.memmap(job.path("flat") / f"{name}.bin", "<u2", mode="r") for name in WEIGHTS]
        rng, shape = np.random.default_rng(SEED), (job.batches, BATCH)
        source = rng.choice(len(maps), size=shape, p=list(WEIGHTS.values()))
        start = rng.integers(np.array([len(each) - WINDOW for each in maps])[source])

        def gather(at: int) -> Tensor:
            places = zip(source[at].tolist(), start[at].tolist(), strict=True)
            return torch.from_numpy(np.stack([maps[which][at : at + WINDOW] for which, at in places]).astype(np.int64))

        places = itertools.chain(range(state or 0, job.batches), itertools.cycle(range(job.batches)))
        return Running(map(gather, places), lambda delivered: delivered, is_endless=True)

    return open_at


def hf(job: Job) -> Open:
    """Hugging Face's datasets, interleaved with probabilities from local Arrow files.

    As it is, map-style: each source shuffled, rows asked for by a list of indices. Variant "stream": iterable, two
    shards a source, each shuffled in a buffer of 1000 rows.
    """
    import datasets

    datasets.disable_progress_bars()
    paths, weights = [str(job.path("arrow") / name) for name in WEIGHTS], list(WEIGHTS.values())

    def open_map(state: Any) -> Running:
        sources = [datasets.load_from_disk(path).shuffle(seed=SEED) for path in paths]
        mixed = datasets.interleave_datasets(sources, weights, seed=SEED).with_format("arrow")
        mixed = mixed.skip((state or 0) * BATCH)
        sampler = BatchSampler(range(len(mixed)), BATCH, drop_last=True)
        loader = DataLoader(mixed, batch_size=None, sampler=sampler, num_workers=job.workers, collate_fn=from_arrow)
        return Running(widened(loader), lambda delivered: delivered)

    def open_stream(state: Any) -> Running:
        sources = [datasets.load_from_disk(path).to_iterable_dataset(num_shards=2) for path in paths]
        shuffled = [each.shuffle(seed=SEED, buffer_size=1000) for each in sources]
        mixed = datasets.interleave_datasets(shuffled, weights, seed=SEED).with_format("numpy").batch(BATCH)
        stateful = job.workers and job.task != "run"
        Loader = stateful_loader() if stateful else DataLoader  # noqa: N806
        loader = Loader(mixed, batch_size=None, num_workers=job.workers, collate_fn=from_columns)
        holder = loader if stateful else mixed
        if state is not None:
            holder.load_state_dict(state)
        return Running(widened(loader), lambda _: holder.state_dict())

    return open_stream if "stream" in job.contender.split() else open_map


def stateful_loader() -> Any:
    """Torchdata's DataLoader: the one of torch cannot tell how far its workers are."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader


def litdata(job: Job) -> Open:
    """TokensLoader under CombinedStreamingDataset; local chunks are mapped in place."""
    import litdata

    def open_at(state: Any) -> Running:
        sources = [
            litdata.StreamingDataset(
                str(job.path("litdata") / name),
                item_loader=litdata.TokensLoader(block_size=WINDOW),
                shuffle=True,
                drop_last=True,
                seed=SEED,
            )
            for name in WEIGHTS
        ]
        mixed = litdata.CombinedStreamingDataset(
            sources, seed=SEED, weights=list(WEIGHTS.values()), iterate_over_all=False
        )
        loader = litdata.StreamingDataLoader(mixed, batch_size=BATCH, num_workers=job.workers, collate_fn=stack)
        if state is not None:
            loader.load_state_dict(state)
        return Running(widened(loader), lambda _: loader.state_dict())

    return open_at


def mds(job: Job) -> Open:
    """mosaicml-streaming on local, uncompressed MDS shards, shuffled."""
    streaming = import_streaming()
    streaming.base.util.clean_stale_shared_memory()

    def open_at(state: Any) -> Running:
        streams = [
            streaming.Stream(local=str(job.path("mds") / name), proportion=weight) for name, weight in WEIGHTS.items()
        ]
        mixed = streaming.StreamingDataset(streams=streams, shuffle=True, shuffle_seed=SEED, batch_size=BATCH)
        loader = streaming.StreamingDataLoader(mixed, batch_size=BATCH, num_workers=job.workers, collate_fn=from_rows)
        if state is not None:
            loader.load_state_dict(state)
        return Running(widened(loader), lambda _: loader.state_dict())

    return open_at


def import_streaming() -> Any:
    """The module; it cannot be imported without torchvision, whose builds often do not fit a torch for CPUs only."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            module = types.ModuleType("torchvision" + name)
            module.__spec__ = ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
        for name in ("VisionDataset", "CIFAR10"):
            setattr(sys.modules["torchvision.datasets"], name, object)
        sys.modules["torchvision.transforms.functional"].__dict__["to_tensor"] = None
    import streaming
    import streaming.base.util

    return streaming


def megatron(job: Job) -> Open:
    """GPTDataset of megatron-core under BlendedDataset, its indices found in its cache.

    Windows of WINDOW tokens without the extra one, so that what it calls tokens is what all deliver.
    """
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    tokenizer = types.SimpleNamespace(
        vocab_size=VOCAB_SIZE, eod=VOCAB_SIZE - 1, pad=-1, eos=None, unique_identifiers={}, special_tokens_dict={}
    )

    def open_at(state: Any) -> Running:
        config = GPTDatasetConfig(
            random_seed=SEED,
            sequence_length=WINDOW,
            blend=([str(job.path("megatron") / name) for name in WEIGHTS], list(WEIGHTS.values())),
            split="1,0,0",
            path_to_cache=str(job.path("megatron") / "cache"),
            tokenizer=tokenizer,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            add_extra_token_to_sequence=False,
        )
        wanted = [job.batches * BATCH, 0, 0]
        mixed, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, wanted, lambda: True, config).build()
        sampler = BatchSampler(range((state or 0) * BATCH, len(mixed)), BATCH, drop_last=True)
        loader = DataLoader(mixed, batch_sampler=sampler, num_workers=job.workers, collate_fn=from_rows)
        return Running(iter(loader), lambda delivered: delivered)

    return open_at


def grain(job: Job) -> Open:
    """Grain's MapDataset, mixed, from ArrayRecord; no threads, with which it is slower on data that is in memory."""
    import grain

    def open_at(state: Any) -> Running:
        paths = [str(job.path("arrayrecord") / f"{name}.array_record") for name in WEIGHTS]
        records = [grain.MapDataset.source(grain.sources.ArrayRecordDataSource([path])) for path in paths]
        rows = [each.shuffle(seed=SEED).repeat().map(from_record) for each in records]
        mixed = grain.MapDataset.mix(rows, list(WEIGHTS.values())).batch(BATCH)
        iterable = mixed.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        if job.workers:
            iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=job.workers))
        iterator = iter(iterable)
        if state is not None:
            iterator.set_state(state)
        return Running(widened(map(torch.from_numpy, iterator)), lambda _: iterator.get_state(), iterator.close)

    return open_at


def from_record(record: bytes) -> Any:
    """A row."""
    return np.frombuffer(record, "<u2")


def from_arrow(table: Any) -> Tensor:
    """A batch from a table of rows."""
    chunks = [chunk.flatten().to_numpy() for chunk in table["tokens"].chunks]
    return torch.from_numpy(np.concatenate(chunks).reshape(-1, WINDOW))


def from_columns(batch: dict[str, Any]) -> Tensor:
    """A batch from its columns."""
    return torch.from_numpy(np.asarray(batch["tokens"]))


def from_rows(rows: list[dict[str, Any]]) -> Tensor:
    """A batch from rows with columns."""
    return stack([each["tokens"] for each in rows])


def stack(rows: list[Any]) -> Tensor:
    """A batch; tokens keep their 2 bytes until they are in the main process, which makes them cheaper to hand over."""
    return torch.stack(rows) if isinstance(rows[0], Tensor) else torch.from_numpy(np.stack(rows))


def widened(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches as int64."""
    return (each.to(torch.int64) for each in batches)


CONTENDERS = {each.__name__: each for each in (thalweg, numpy, hf, litdata, mds, megatron, grain)}
PACKAGES = {"hf": "datasets", "mds": "mosaicml-streaming", "megatron": "megatron-core"}


def reference(job: Job, running: Running) -> dict[str, Any]:
    """Goes through the stream undisturbed, keeps the state in the middle and says what came next."""
    for _ in range(job.resume_at):
        next(running.batches)
    Path(job.state).write_bytes(pickle.dumps(running.state(job.resume_at)))
    return {"digest": digest(next(running.batches))}


def run(job: Job, running: Running) -> dict[str, Any]:
    """Measures how fast batches come, from the 22nd on, of a stream that ends up to nine tenths of the pass."""
    for _ in itertools.islice(running.batches, WARM_UP):
        pass
    most = None if running.is_endless else int(0.9 * job.batches) - WARM_UP
    counted, start = 0, time.perf_counter()
    for _ in running.batches:
        counted += 1
        if counted == most or time.perf_counter() > start + job.seconds:
            break
    if not counted:
        raise ValueError(f"the pass ended after {WARM_UP} batches or before")
    return {"rate": counted * BATCH * WINDOW / (time.perf_counter() - start), "counted": counted}


def resume(job: Job, running: Running) -> dict[str, Any]:
    """Nothing more: that it began in the middle is all."""
    return {}


TASKS = {"reference": reference, "run": run, "resume": resume}


def digest(batch: Tensor) -> str:
    """Tells one batch from another.

    Raises ValueError where it is no batch of tokens at all.
    """
    values = batch.numpy()
    if values.shape != (BATCH, WINDOW) or values.dtype != np.int64 or values.min() < 0 or values.max() >= VOCAB_SIZE:
        raise ValueError(f"delivered {values.dtype} {list(values.shape)} from {values.min()} to {values.max()}")
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).hexdigest()


def anonymous_bytes(status: Path = Path("/proc/self/status")) -> int:
    """What a process holds that is no file's."""
    line = next(each for each in status.read_text().splitlines() if each.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def answer(job: Job) -> dict[str, Any]:
    """All that a process has to tell."""
    state = pickle.loads(Path(job.state).read_bytes()) if job.task == "resume" else None
    open_at = CONTENDERS[job.kind](job)
    imported = anonymous_bytes()
    start = time.perf_counter()
    running = open_at(state)
    if job.task == "reference":
        told = reference(job, running)
    else:
        batch = next(running.batches)
        now = time.perf_counter()
        told = {"first": now - start, "with_imports": now - HAS_TORCH, "from_start": time.monotonic() - job.started}
        told |= {"digest": digest(batch), "imported": imported}
        told |= TASKS[job.task](job, running)
    running.close()
    package = PACKAGES.get(job.kind, job.kind)
    return told | {"version": f"{package} {metadata.version(package)}, torch {torch.__version__}"}


def main() -> None:
    """Does the job; an error is an answer too."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print to stdout
    try:
        told = answer(Job(**json.loads(sys.argv[1])))
    except Exception as error:
        words = " ".join(str(error).split())
        print(json.dumps({"error": f"{type(error).__name__}: {words[:300]}"}), file=answers)
        raise
    print(json.dumps(told), file=answers)


if __name__ == "__main__":
    main()
