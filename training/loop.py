"""The training loop."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data_pipeline.loader import Loader, RankBatch
from data_pipeline.read_ahead import Interrupted
from model.objective import task
from training.batch_ramp import batches
from training.callback import Callback, StepResult
from training.collectives import any_rank, gather_values
from training.run import Progress, Run
from training.schedule import learning_rate


def train(run: Run, callbacks: Sequence[Callback]) -> None:
    """Trains until all tokens are consumed or a signal asks for the end, calling the callbacks at their points."""
    loader = _loader(run)
    try:
        for callback in callbacks:
            callback.on_start(run)
        while not run.finished:  # asked before a batch is: behind the last one the data may end
            run.phase.enter("waiting for data")
            batch = _next(run, loader)
            if batch is None:
                break
            result = _step(run, batch, callbacks)
            run.phase.enter("after the step")
            run.signals.only_note_on_all_ranks(lambda: any_rank(False, run.engine.device))
            if _is_rolled_back(run, result, callbacks):
                loader.leave_off()
                loader = _loader(run)
        run.phase.enter("ending")
        for callback in callbacks:
            callback.on_end(run)
    finally:
        loader.close()
        for callback in callbacks:
            callback.on_close(run)


def _loader(run: Run) -> Loader:
    """The batches from where the run stands."""
    place, n_ctx = run.engine.place, run.stream.n_ctx
    sizes = batches(run.config, n_ctx, run.progress.sequences)
    micro_batch = run.config.micro_batch
    return Loader(
        run.stream, run.progress.stream, sizes, micro_batch, place.data_rank, place.data_size, run.signals.asked
    )


def _next(run: Run, loader: Loader) -> RankBatch | None:
    """The next batch, or None on all ranks where one was asked to end."""
    waited = loader.waited
    try:
        batch = next(loader)
    except Interrupted:
        batch = None
    run.waited += loader.waited - waited
    run.phase.enter("agreeing to go on")
    return None if run.is_asked_to_end() else batch


def _step(run: Run, batch: RankBatch, callbacks: Sequence[Callback]) -> StepResult:
    """One global batch: forwards and backwards, then one step of the optimizer."""
    lr = learning_rate(run.config, run.tokens + batch.sequences * run.stream.n_ctx)
    run.engine.set_lr(lr)
    losses = _gradients(run, batch)
    run.phase.enter("before the optimizer's step")
    run.ledger.enter(batch, losses)
    for callback in callbacks:
        callback.on_gradients(run, batch, losses)
    loss = norm = math.nan

    def approves(grad_norm: float) -> bool:
        nonlocal loss, norm
        # What is decided on is the same number on every rank, so that none steps on what another one refuses.
        mine = float(losses.double().sum()) if run.engine.place.counts else 0.0
        told = gather_values([mine, grad_norm], run.engine.device)
        loss = sum(summed for summed, _ in told) / batch.sequences
        norm = max(norm for _, norm in told)
        answers = [callback.approves(run, loss, norm) for callback in callbacks]
        return math.isfinite(norm) and all(answers)

    run.phase.enter("optimizer's step")
    run.engine.step(approves)
    done = run.progress
    run.progress = Progress(done.step + 1, done.sequences + batch.sequences, batch.state, batch.text_states)
    return StepResult(batch.sequences * run.stream.n_ctx, lr, norm, loss, run.engine.stepped)


def _is_rolled_back(run: Run, result: StepResult, callbacks: Sequence[Callback]) -> bool:
    """Tells the callbacks what the step did; whether one of them took the run back to where it was before."""
    reached = run.progress
    for callback in callbacks:
        callback.on_step(run, result)
        if run.progress is not reached:
            for each in callbacks:
                each.on_rollback(run)
            return True
    return False


def _gradients(run: Run, batch: RankBatch) -> Tensor:
    """Accumulates the gradient of the global batch's mean loss; returns the losses [N] of this rank's sequences.

    The engine averages over ranks that hold the same weights. A rank's sum is therefore divided by the sequences of the
    whole batch and multiplied by the number of these ranks, so that every sequence weighs the same however they were
    dealt. Of ranks that share sequences, each has the sum of its own positions' share.
    """
    engine, losses = run.engine, []
    for at, micro in enumerate(batch.micro_batches):
        run.phase.enter("forward")
        tokens = micro.tokens
        if run.model.objective == "next_token":
            # Whole, as it lies in pinned memory: a slice would be copied aside first, and waited for.
            tokens = tokens.to(engine.device, non_blocking=True)
        learned = task(run.model, tokens, run.stream.seed, micro.positions)
        total, by_sequence = engine(*learned, micro.weights)
        run.phase.enter("backward")
        engine.backward(total * (engine.place.replicas / batch.sequences), last=at == len(batch.micro_batches) - 1)
        losses.append(by_sequence)
    return torch.cat(losses)[: len(batch.token_hashes)]
