"""Whether processes that should hold the same weights do: faulty memory or a faulty link changes some silently."""

import torch
from torch import Tensor

from data_pipeline.loader import RankBatch
from training.callback import Callback
from training.collectives import gather_rows
from training.config import DriftConfig
from training.cuts import WHOLE
from training.errors import RunError
from training.run import Run
from training.tensor_parallel import cut_of

AT_ONCE = 2**22
"""Words that are multiplied at once, which bounds the memory it takes."""


def bit_hash(values: Tensor) -> Tensor:
    """A hash [] of the bits of `values`, int64, the same on every kind of device.

    The sum of its 64-bit words, each times an odd number of its own, modulo 2^64: a flipped bit always changes it, and
    words that change places do.
    """
    words = values.detach().contiguous().view(-1).view(torch.uint8)
    words = torch.nn.functional.pad(words, (0, -len(words) % 8)).view(torch.int64)
    summed = torch.zeros((), dtype=torch.int64, device=values.device)
    for at in range(0, len(words), AT_ONCE):
        some = words[at : at + AT_ONCE]
        summed += (some * torch.arange(2 * at + 1, 2 * (at + len(some)) + 1, 2, device=some.device)).sum()
    return summed


class Drift(Callback):
    """Compares every few steps, before the optimizer's. At stage 3 no two processes hold the same.

    That is what forward and backward computed with: the optimizer's step gives all processes the same weights again at
    stages 1 and 2, and a wrong gradient would be all that is left.
    """

    def __init__(self, config: DriftConfig, zero_stage: int) -> None:
        self._every = config.every_steps if zero_stage < 3 else 0

    def on_gradients(self, run: Run, batch: RankBatch, losses: Tensor) -> None:
        if self._every and run.engine.world_size > 1 and (run.progress.step + 1) % self._every == 0:
            self._compare(run)

    def _compare(self, run: Run) -> None:
        step = run.progress.step + 1
        named = list(run.engine.network.named_parameters())
        hashes = gather_rows(torch.stack([bit_hash(value) for _, value in named])[None]).cpu()
        apart = hashes.view(-1, run.engine.place.tensor, len(named))  # by the pieces of layers that ranks hold
        is_piece = torch.tensor([cut_of(value) != WHOLE for _, value in named])
        different = apart != torch.where(is_piece, apart.mode(dim=0).values, hashes.mode(dim=0).values)
        if not different.any():
            return
        of_pieces, of_whole = (different[:, :, some].any(dim=2) for some in (is_piece, ~is_piece))
        # Without a majority nothing says who is right.
        undecided = (2 * of_pieces.sum(dim=0) >= len(apart)) | (2 * of_whole.sum() >= len(hashes))
        ranks = (of_pieces | of_whole | undecided).flatten().nonzero().flatten().tolist()
        names = [
            name for (name, _), here in zip(named, different.flatten(0, 1).any(dim=0).tolist(), strict=True) if here
        ]
        run.folder.event("drift", step, run.tokens, ranks=ranks, parameters=names)
        who = "of ranks" if undecided.any() else "different from those of all others on rank"
        raise RunError(
            f"{run.folder.path}: step {step}: weights that should be equal are not: {names[0]} and "
            f"{len(names) - 1} others {who} {', '.join(map(str, ranks))}; memory or a link of a machine is faulty: "
            "leave it out, and go on from the last checkpoint, or from an earlier one where that may be affected"
        )
