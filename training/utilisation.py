"""Model and hardware FLOPs utilisation: which share of what the devices could compute a run makes use of.

    mfu = tokens per second * model FLOPs per token / (devices * peak FLOP/s of one)
    hfu = computed tokens per second * computed FLOPs per token / (devices * peak FLOP/s of one)

as Chowdhery et al. 2022, appendix B, define them. FLOPs per token are counted by `model.counts`: the model's are those
of all matrix products of a forward and a backward pass, none counted twice; the computed ones add what activation
checkpointing repeats, the vocabulary's padding, and the output layer, as often as it is computed: by each of the ranks
that share a layer, and at masked positions by each of those that share a sequence. Computed tokens count the filler
sequences of uneven batches, too.
Both are of the wall clock, like `tokens_per_second`: validation, saving and waiting count as time without FLOPs.
"""

import inspect
import logging
import re

import torch
from torch.nn import functional as F

from data_pipeline.deal import Deal
from model.attention import FLEX_DEVICES, FLEX_WIDTH
from model.counts import computed_flops_per_token, output_flops_per_token, training_flops_per_token
from training.callback import StepResult
from training.run import Run

log = logging.getLogger("thalweg.train")

PEAKS: list[tuple[str, dict[str, float]]] = [
    (r"B200", {"bf16": 2250e12, "tf32": 1125e12, "fp32": 75e12}),
    (r"H200 NVL", {"bf16": 835.5e12, "tf32": 417.5e12, "fp32": 60e12}),
    (r"H200", {"bf16": 989.5e12, "tf32": 494.5e12, "fp32": 67e12}),
    (r"H100 NVL", {"bf16": 835.5e12, "tf32": 417.5e12, "fp32": 60e12}),
    (r"H100 PCIe", {"bf16": 756.5e12, "tf32": 378e12, "fp32": 51e12}),
    (r"H100 80GB HBM3", {"bf16": 989.5e12, "tf32": 494.5e12, "fp32": 67e12}),
    (r"A100", {"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12}),
    (r"L40S", {"bf16": 362.05e12, "tf32": 183e12, "fp32": 91.6e12}),
    (r"V100S", {"fp32": 16.4e12}),
    (r"V100-SXM2", {"fp32": 15.7e12}),
    (r"V100-PCIE", {"fp32": 14e12}),
]
"""FLOP/s of one device without sparsity, by what CUDA calls it, from NVIDIA's data sheets.

B200: an eighth of "HGX B200"; "H200 Tensor Core GPU" and "H100 Tensor Core GPU", half of what they give with sparsity;
"A100 Tensor Core GPU"; "L40S"; "V100 Tensor Core GPU", which has no bf16. tf32 is what fp32 products are computed in
where torch.set_float32_matmul_precision allows it.
"""


def peak_flops(device_name: str, kind: str) -> float | None:
    """FLOP/s of a whole device in bf16, tf32 or fp32; None for those not known, and for slices of one (MIG)."""
    words = re.split(r" MIG ", device_name)
    found = (peaks.get(kind) for pattern, peaks in PEAKS if re.search(rf"\b{pattern}\b", device_name))
    return next(found, None) if len(words) == 1 else None


class Utilisation:
    """Counts what is computed from line to line of the metrics. Nothing is known of a device without a peak."""

    def __init__(self, run: Run, given: float | None) -> None:
        """`given` is the peak FLOP/s of a device where the configuration names one."""
        device, model, network = run.engine.device, run.model, run.engine.network
        self._peak = given or _known_peak(run)
        compiled = network.blocks[0]._compiled_call_impl is not None  # set by nn.Module.compile
        # At ZeRO stage 3 DeepSpeed puts its own function in the place of torch's.
        whole_blocks = compiled or not inspect.isbuiltin(F.linear)
        flex = device.type in FLEX_DEVICES and model.d_head >= FLEX_WIDTH
        self._model = training_flops_per_token(model)
        self._computed = computed_flops_per_token(
            model, network.recompute, whole_blocks=whole_blocks, flex_attention=flex
        )
        place = run.engine.place
        copies = place.tensor if model.causal else place.sharing
        self._computed += (copies - 1) * output_flops_per_token(model)
        self.begin()

    def begin(self) -> None:
        """Counts from here on."""
        self._tokens = self._computed_tokens = 0

    def count(self, run: Run, result: StepResult) -> None:
        """Takes a step in."""
        n_ctx, size = run.stream.n_ctx, run.engine.place.data_size
        deal = Deal(result.tokens // n_ctx, size, run.config.micro_batch)
        self._tokens += result.tokens
        self._computed_tokens += deal.slots * size * n_ctx

    def take(self, run: Run, seconds: float) -> dict[str, float]:
        """`mfu` and `hfu` over the `seconds` since they were last taken; nothing without a peak."""
        tokens, computed = self._tokens, self._computed_tokens
        self.begin()
        if self._peak is None:
            return {}
        able = seconds * run.engine.world_size * self._peak
        return {"mfu": tokens * self._model / able, "hfu": computed * self._computed / able}


def _known_peak(run: Run) -> float | None:
    if run.engine.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(run.engine.device)
    exact = torch.get_float32_matmul_precision() == "highest"
    kind = "bf16" if run.config.precision == "bf16" else "fp32" if exact else "tf32"
    found = peak_flops(name, kind)
    if found is None and run.engine.rank == 0:
        log.info("mfu and hfu are left out: the peak of %s in %s is not known; give metrics.peak_flops", name, kind)
    return found
