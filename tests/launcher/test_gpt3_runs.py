"""The runs of configs/ against the paper (Brown et al. 2020, tables 2.1 and 2.2, appendix B)."""

import re
from pathlib import Path

import pytest

from data_pipeline.deal import Deal
from launcher.config import load_run
from model.counts import count_parameters
from training.batch_ramp import batch_sequences
from training.schedule import learning_rate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
G = 10**9

PAPER = {
    "125m": (125e6, 12, 768, 12, 6.0e-4, 0.5e6),
    "350m": (356e6, 24, 1024, 16, 3.0e-4, 0.5e6),
    "760m": (760e6, 24, 1536, 16, 2.5e-4, 0.5e6),
    "1.3b": (1320e6, 24, 2048, 16, 2.0e-4, 1e6),
    "2.7b": (2650e6, 32, 2560, 32, 1.6e-4, 1e6),
    "6.7b": (6660e6, 32, 4096, 32, 1.2e-4, 2e6),
    "13b": (12850e6, 40, 5120, 40, 1.0e-4, 2e6),
    "175b": (174600e6, 96, 12288, 96, 0.6e-4, 3.2e6),
}
"""Parameters, layers, width, heads, learning rate, tokens of a batch."""


def test_there_is_a_run_for_each_network_of_the_paper() -> None:
    assert {path.stem for path in CONFIGS.glob("gpt3-*.yaml")} == {f"gpt3-{name}" for name in PAPER}


@pytest.mark.parametrize("name", PAPER)
def test_a_run_is_the_paper_s(name: str) -> None:
    path = CONFIGS / f"gpt3-{name}.yaml"
    parameters, layers, width, heads, lr, batch = PAPER[name]
    config = load_run(path)
    model, train = config.model, config.train
    assert (model.n_layer, model.d_model, model.n_head, model.n_ctx) == (layers, width, heads, 2048)
    assert count_parameters(model) == pytest.approx(parameters, rel=0.01)
    assert (model.attention, model.position, config.name) == ("alternating", "learned", f"gpt3-{name}")
    assert train.batch_tokens == pytest.approx(batch, rel=0.05)
    assert (train.tokens, train.betas, train.eps, train.weight_decay, train.grad_clip) == (
        300 * G,
        (0.9, 0.95),
        1e-8,
        0.1,
        1,
    )
    assert learning_rate(train, 375 * 10**6) == lr and learning_rate(train, 260 * G) == pytest.approx(lr / 10)
    assert learning_rate(train, 300 * G) == pytest.approx(lr / 10)
    assert batch_sequences(train, 2048, 0) == 16
    assert train.ramp is not None and 4 * G <= train.ramp.over_tokens <= 12 * G
    assert config.data.mixture == {
        "common_crawl": 0.6, "webtext": 0.22, "books1": 0.08, "books2": 0.08, "wikipedia": 0.03,
    }  # fmt: skip
    layout = re.search(r"Layout: (\d+) GPUs", path.read_text())
    assert layout is not None
    assert Deal(config.sequences, int(layout[1]), train.micro_batch).wasted == 0
