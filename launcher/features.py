"""The features that hang on the loop of a run, in the order in which each point of it calls them."""

from rich.console import Console

from launcher.config import RunConfig
from launcher.track import shown
from planning.layout import Device, Layout
from planning.memory import memory
from training.attention_logits import AttentionLogits
from training.callback import Callback
from training.checkpoint import Describing
from training.checkpointer import Checkpointer
from training.console import ConsoleReport
from training.drift import Drift
from training.garbage import Garbage
from training.layer_norms import LayerNorms
from training.metrics import Metrics
from training.noise_scale import NoiseScale
from training.profiler import Profiler
from training.run import Run
from training.samples import Samples
from training.spikes import Spikes
from training.stopping import Stopping
from training.stragglers import Stragglers
from training.trackers import Trackers
from training.validation import Validation


def features(config: RunConfig, describing: Describing, run: Run) -> list[Callback]:
    """What says why a run ends or may refuse a step first, what adds to a line of metrics before it, saving last."""
    rank, folder = run.engine.rank, run.folder
    console = ConsoleReport(Console(stderr=True, quiet=rank > 0))
    trackers = Trackers(config.metrics, config.name, shown(config))
    checkpointer = Checkpointer(config.checkpoint, describing)
    return [
        Stopping(),
        Spikes(config.spikes, checkpointer),
        Drift(config.drift, config.zero.stage),
        Validation(config.validation),
        NoiseScale(config.noise_scale, config.metrics),
        LayerNorms(config.layers),
        AttentionLogits(config.layers),
        Metrics(config.metrics, [folder.metrics, console.show, trackers.record], _planned_memory_gb(config, run)),
        console,
        trackers,
        Samples(config.samples),
        checkpointer,
        Stragglers(config.watch.stragglers, config.zero.stage, config.parallel.sharing > 1),
        Profiler(config.profile),
        Garbage(),
    ]


def _planned_memory_gb(config: RunConfig, run: Run) -> float:
    """What the planner says of the peak that is measured: of tensors on a GPU, of the whole process on a CPU."""
    device: Device = "cuda" if run.engine.device.type == "cuda" else "cpu"
    layout = Layout.of(config.train, config.zero, config.parallel, run.engine.world_size, device)
    planned = memory(config.model, config.train, layout)
    return (planned.tensors if device == "cuda" else planned.device + planned.host) / 1e9
