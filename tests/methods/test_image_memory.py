"""An item that is asked about twice is seen once, by the weights that are there; answers stay the same."""

import torch

from methods.generation.answers import ImageFeatures, Session
from methods.inputs.media import image_patches
from methods.model.config import Decoding
from methods.model.policy import Policy
from task_streams.prompt import request
from task_streams.types import TaskStream


def test_the_same_items_under_another_list_cost_no_image(policy: Policy, stream: TaskStream) -> None:
    items, session, decoding = stream.tasks[0].test[:6], Session(), Decoding(24)
    lists = (stream.tasks[0].seen, stream.labels)
    policy.meter.taken()
    found, images = [], []
    for labels in lists:
        found.append(policy.generate([request(item, labels) for item in items], decoding, session))
        images.append(policy.meter.taken()["images"])
    assert images == [6, 0]
    assert found == [policy.generate([request(item, labels) for item in items], decoding) for labels in lists]


def test_features_are_the_towers_own_in_any_order_and_beyond_the_limit(policy: Policy, stream: TaskStream) -> None:
    batch = policy.encode([request(item, stream.labels) for item in stream.tasks[0].test[:4]])
    images = image_patches(batch, [1] * 4)
    assert images is not None
    backbone = policy.model.model
    with torch.no_grad():
        expected = backbone.get_image_features(images.values, images.grids, return_dict=True).pooler_output
    size = expected[0].numel() * 4
    for limit, kept in ((10 * size, 4), (2 * size, 2), (0, 0)):
        memory = ImageFeatures(limit)
        for order in ([0, 1], [3, 0, 2, 1], [2]):
            found = memory.features(backbone, [f"item {place}" for place in order], images.select(order))
            assert torch.allclose(found, torch.cat([expected[place] for place in order]), atol=1e-5)
        assert len(memory.kept) == kept


def test_a_question_about_several_images_keeps_their_order(policy: Policy, stream: TaskStream) -> None:
    from tests.methods.clip_tasks import about_clips

    task = about_clips(stream.tasks[1], "images", (3, 1, 2))
    asked = [request(item, stream.labels) for item in task.train[:3]]
    session, decoding = Session(), Decoding(24)
    plain = policy.generate(asked, decoding)
    assert policy.generate(asked, decoding, session) == policy.generate(asked[::-1], decoding, session)[::-1] == plain
