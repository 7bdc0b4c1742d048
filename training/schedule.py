"""The learning rate as a pure function of the tokens consumed."""

import math

from training.config import TrainConfig


def learning_rate(config: TrainConfig, tokens: int) -> float:
    """The rate of the step that brings the run to `tokens` tokens.

    A linear warm-up to the peak, then `config.schedule`:

    cosine        half a cosine down to `min_lr_ratio` of the peak at `decay_tokens` (Brown et al. 2020, appendix B)
    linear        a straight line to the same end
    wsd           the peak up to `stable_tokens`, then down to the same end as 1 - sqrt of the way (Hägele et al. 2024,
                  "Scaling laws and compute-optimal training beyond fixed training durations", section 3)
    constant      the peak
    inverse_sqrt  the peak times sqrt(warmup_tokens / tokens), not below `min_lr_ratio` of it (Vaswani et al. 2017,
                  section 5.3)
    """
    if tokens < config.warmup_tokens:
        return config.lr * tokens / config.warmup_tokens
    return config.lr * _share_of_peak(config, tokens)


def _share_of_peak(config: TrainConfig, tokens: int) -> float:
    """After the warm-up."""
    floor, schedule = config.min_lr_ratio, config.schedule
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return max(math.sqrt(config.warmup_tokens / tokens), floor)
    begin, end = config.decay_begin, config.decay_end
    done = min(max((tokens - begin) / (end - begin), 0.0), 1.0)
    left = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "wsd": 1 - math.sqrt(done)}[schedule]
    return floor + (1 - floor) * left
