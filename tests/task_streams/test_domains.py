import numpy as np
import pytest

from task_streams.datasets.digits import digit_image
from task_streams.scenarios.domains import DOMAINS


@pytest.mark.parametrize("name", sorted(set(DOMAINS) - {"clean"}))
def test_a_domain_changes_the_image_and_always_in_the_same_way(name: str) -> None:
    plain = digit_image(7)
    before = np.asarray(plain).copy()
    once, again = DOMAINS[name].apply(plain, "digits/0007"), DOMAINS[name].apply(plain, "digits/0007")
    assert (once.mode, once.size) == ("RGB", (64, 64))
    assert np.array_equal(np.asarray(once), np.asarray(again))
    assert not np.array_equal(np.asarray(once), before)
    assert np.array_equal(np.asarray(plain), before)


def test_the_clean_domain_is_the_image_itself() -> None:
    plain = digit_image(7)
    assert np.array_equal(np.asarray(DOMAINS["clean"].apply(plain, "k")), np.asarray(plain))


@pytest.mark.parametrize("name", ["rotated", "noisy"])
def test_two_items_get_different_randomness(name: str) -> None:
    plain = digit_image(7)
    one, other = (np.asarray(DOMAINS[name].apply(plain, key)) for key in ("digits/0007", "digits/0008"))
    assert not np.array_equal(one, other)


def test_thick_strokes_have_more_ink_and_thin_ones_less() -> None:
    plain = digit_image(7)
    ink = {name: np.asarray(DOMAINS[name].apply(plain, "k")).mean() for name in ("clean", "thick", "thin")}
    assert ink["thin"] < ink["clean"] < ink["thick"]


def test_the_identity_of_a_domain_changes_with_its_strength() -> None:
    identities = {domain.identity for domain in DOMAINS.values()}
    assert len(identities) == len(DOMAINS)
    assert DOMAINS["clean"].identity == "clean=0.0"
