import pytest

from task_streams.errors import UserError
from task_streams.scenarios.order_seeds import order_seeds


def test_rapos_order_seeds_are_those_of_the_paper() -> None:
    assert order_seeds("rapo_image") == (1990, 1993, 1996)
    assert order_seeds("rapo_video") == (1990, 1993, 1996)
    assert order_seeds("rapo_detection_5") == (136, 377, 639)
    assert order_seeds("rapo_detection_10") == (277, 305, 738)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown preset of order seeds 'rapo_images'\. Did you mean 'rapo_image'\?"):
        order_seeds("rapo_images")
