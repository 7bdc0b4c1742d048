"""The training loop."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data_pipeline.loader import Loader, RankBatch
from model.objective import task
from training.batch_ramp import batches
from training.callback import Callback, StepResult
from training.run import Progress, Run
from training.schedule import learning_rate


def train(run: Run, callbacks: Sequence[Callback]) -> None:
    """Trains until all tokens are consumed, calling the callbacks at their points."""
    engine = run.engine
    loader = Loader(
        run.stream,
        run.progress.stream,
        batches(run.config, run.stream.n_ctx, run.progress.sequences),
        run.config.micro_batch,
        engine.rank,
        engine.world_size,
    )
    try:
        for callback in callbacks:
            callback.on_start(run)
        while not run.finished:  # asked before a batch is: behind the last one the data may end
            batch = next(loader)
            run.waited = loader.waited
            result = _step(run, batch, callbacks)
            for callback in callbacks:
                callback.on_step(run, result)
        for callback in callbacks:
            callback.on_end(run)
    finally:
        loader.close()
        for callback in callbacks:
            callback.on_close(run)


def _step(run: Run, batch: RankBatch, callbacks: Sequence[Callback]) -> StepResult:
    """One global batch: forwards and backwards, then one step of the optimizer."""
    lr = learning_rate(run.config, run.tokens + batch.sequences * run.stream.n_ctx)
    run.engine.set_lr(lr)
    losses = _gradients(run, batch)
    run.ledger.enter(batch, losses)
    for callback in callbacks:
        callback.on_gradients(run, losses)
    grad_norm = run.engine.step()
    done = run.progress
    run.progress = Progress(done.step + 1, done.sequences + batch.sequences, batch.state, batch.text_states)
    return StepResult(batch.sequences * run.stream.n_ctx, lr, grad_norm)


def _gradients(run: Run, batch: RankBatch) -> Tensor:
    """Accumulates the gradient of the global batch's mean loss; returns the losses [N] of this rank's sequences.

    The engine averages over ranks. A rank's sum is therefore divided by the sequences of the whole batch and
    multiplied by the number of ranks, so that every sequence weighs the same however they were dealt.
    """
    engine, losses = run.engine, []
    for at, micro in enumerate(batch.micro_batches):
        tokens = micro.tokens
        if run.model.objective == "next_token":
            # Whole, as it lies in pinned memory: a slice would be copied aside first, and waited for.
            tokens = tokens.to(engine.device, non_blocking=True)
        learned = task(run.model, tokens, run.stream.seed, micro.positions)
        total, by_sequence = engine(*learned, micro.weights)
        engine.backward(total * (engine.world_size / batch.sequences), last=at == len(batch.micro_batches) - 1)
        losses.append(by_sequence)
    return torch.cat(losses)[: len(batch.token_hashes)]
