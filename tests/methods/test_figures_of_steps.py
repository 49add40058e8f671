"""The figures of an update: which of TRL's are kept, under which names, and what a method logs itself."""

from methods.training.fit import step_row


def test_what_a_method_logs_is_kept_and_what_trl_alone_logs_is_not() -> None:
    logs = {
        "loss": 0.5,
        "reward_std": 1.0,  # TRL's
        "reward_std_batch": 0.25,  # RaPO's own
        "epoch": 2.0,
        "epochs_added": 0.125,  # a method may begin like that
        "rewards/accuracy/mean": 0.75,
        "rewards/accuracy/std": 0.1,
        "completions/mean_length": 17.0,
        "completions/min_length": 16.0,
        "clip_ratio/low_mean": 0.0,
    }
    assert step_row(3, logs) == {
        "step": 3.0,
        "loss": 0.5,
        "reward_std_batch": 0.25,
        "epochs_added": 0.125,
        "reward_accuracy": 0.75,
        "completion_length": 17.0,
    }


def test_a_figure_without_a_number_is_left_out_not_zero() -> None:
    assert step_row(1, {"loss": 0.5, "kl": None, "drift": None}) == {"step": 1.0, "loss": 0.5}
