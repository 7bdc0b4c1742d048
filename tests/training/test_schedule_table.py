from training.config import TrainConfig
from training.schedule_table import WIDTH, lines, moments, plot

FIELDS = {"tokens": 1000, "batch_tokens": 40, "lr": 1.0, "warmup_tokens": 100, "min_lr_ratio": 0.0}
RAMP = {"from_tokens": 8, "over_tokens": 400}


def test_a_row_stands_where_something_changes() -> None:
    wsd = TrainConfig.model_validate(FIELDS | {"schedule": "wsd", "stable_tokens": 600, "ramp": RAMP})
    rows = moments(wsd, 4)
    assert [row.tokens for row in rows] == [0, 100, 400, 600, 800, 1000]
    assert [round(row.lr, 3) for row in rows] == [0, 1, 1, 1, 0.293, 0]
    assert [row.batch_tokens for row in rows] == [8, 16, 40, 40, 40, 40]


def test_what_ends_behind_the_run_is_left_out() -> None:
    rows = moments(TrainConfig.model_validate(FIELDS | {"decay_tokens": 5000}), 4)
    assert [row.tokens for row in rows] == [0, 100, 1000]


def test_a_plot_goes_from_nothing_to_the_most() -> None:
    assert plot([0, 0.5, 1]) == "▁▅█" and plot([0.0]) == "▁"
    constant = TrainConfig.model_validate(FIELDS | {"schedule": "constant", "warmup_tokens": 0, "ramp": RAMP})
    lr, batch = lines(constant, 4)[-2:]
    assert lr == "lr    " + "█" * WIDTH
    assert batch.startswith("batch ▂") and batch.endswith("█" * (WIDTH // 2)) and len(batch) == 6 + WIDTH
