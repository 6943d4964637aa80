"""When so many packets have come within a second."""

from capd.worker.recorder.triggers import Rate


def test_what_comes_before_the_first_look_counts() -> None:
    rate = Rate(100)
    rate.begin(0.0, 7)
    assert not rate.is_reached(0.1, 106)
    rate.begin(0.2, 106)
    assert rate.is_reached(0.3, 206)


def test_what_is_older_than_a_second_does_not_count() -> None:
    rate = Rate(100)
    rate.begin(0.0, 0)
    assert not rate.is_reached(0.5, 60)
    assert not rate.is_reached(1.5, 159)
    assert not rate.is_reached(2.6, 200)
    assert rate.is_reached(2.7, 300)
