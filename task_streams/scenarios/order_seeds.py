"""Published seeds of class orders, by name, so that a sweep can ask for the orders of a paper."""

from task_streams.errors import UserError, unknown_name

# RaPO (arXiv 2605.09640): class orders are RandomState(seed).permutation(n) over the sorted class names.
ORDER_SEEDS: dict[str, tuple[int, ...]] = {
    "rapo_image": (1990, 1993, 1996),  # ImageNet-R, ImageNet-A, TinyImageNet, CUB-200
    "rapo_video": (1990, 1993, 1996),  # UCF-101, Kinetics-200
    "rapo_detection_5": (136, 377, 639),  # COCO 2017, 5 tasks of 16 categories
    "rapo_detection_10": (277, 305, 738),  # COCO 2017, 10 tasks of 8 categories
}


def order_seeds(name: str) -> tuple[int, ...]:
    """Order seeds of a preset.

    Raises:
        UserError: no preset of that name.
    """
    if name not in ORDER_SEEDS:
        raise UserError(unknown_name("preset of order seeds", name, ORDER_SEEDS))
    return ORDER_SEEDS[name]
