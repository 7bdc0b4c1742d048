"""The learning rate as a pure function of the tokens consumed."""

import math

from training.config import TrainConfig


def learning_rate(config: TrainConfig, tokens: int) -> float:
    """The rate of the step that brings the run to `tokens` tokens.

    Linear warm-up, then a cosine down to `min_lr_ratio` of the peak at `decay_tokens`, constant from there
    (Brown et al. 2020, appendix B).
    """
    end = config.decay_tokens or config.tokens
    if tokens < config.warmup_tokens:
        return config.lr * tokens / config.warmup_tokens
    done = min((tokens - config.warmup_tokens) / (end - config.warmup_tokens), 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
