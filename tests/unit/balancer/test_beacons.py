from balancer.beacons import MAX_BALANCERS, Beacons
from balancer.policy import MAX_AGE


def test_a_balancer_counts_itself_the_registered_and_the_heard() -> None:
    beacons = Beacons("own")
    assert beacons.count(0.0) == 1
    beacons.register(["own", "two"])
    assert beacons.count(0.0) == 2
    beacons.hear("three", 0.0)
    assert beacons.count(1.0) == 3, "the registry need not know of it"


def test_one_that_has_become_silent_does_not_count_whatever_the_registry_says() -> None:
    beacons = Beacons("own")
    beacons.register(["own", "two"])
    beacons.hear("two", 10.0)
    assert beacons.count(10.0 + MAX_AGE - 0.1) == 2
    assert beacons.count(10.0 + MAX_AGE) == 1


def test_beacons_are_bounded_and_forgotten() -> None:
    beacons = Beacons("own")
    for number in range(MAX_BALANCERS + 50):
        beacons.hear(f"b{number}", 0.0)
    assert beacons.count(0.1) == MAX_BALANCERS + 1
    beacons.forget(40.0, 30.0)
    beacons.hear("fresh", 40.0)
    assert beacons.count(40.1) == 2
