# SPDX-License-Identifier: Apache-2.0
"""Sampling goes on until the estimate is good to 2 %, and says how good it is."""

import random
import statistics
from collections.abc import Sequence

import pytest

from ipa_snapshot.images.sampling import estimate

CLUSTER = 256 * 1024


class Disk:
    """Clusters of given sizes, of which some are measured."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.measured: list[int] = []

    def measure(self, indexes: Sequence[int]) -> list[int]:
        self.measured += indexes
        return [self.sizes[index] for index in indexes]


def mixed(count: int, seed: int = 1) -> list[int]:
    """Return sizes of which the deviation is 0.85 of the mean."""
    chance = random.Random(seed)
    return [int(CLUSTER * chance.betavariate(0.6, 1.2)) for _ in range(count)]


def test_it_goes_on_until_it_is_good_to_two_percent() -> None:
    disk = Disk(mixed(200_000))
    found = estimate(range(200_000), disk.measure, CLUSTER, 1_000_000)
    truth = sum(disk.sizes)
    assert found.error <= 0.02 * found.size
    assert abs(found.size - truth) <= 3 * found.error
    # (0.85 / 0.02) ** 2 are needed, and a batch doubles what there is
    assert 1800 <= len(disk.measured) <= 4096


def test_it_ends_at_what_it_may_cost_and_tells_how_good_it_is_then() -> None:
    disk = Disk(mixed(200_000))
    found = estimate(range(200_000), disk.measure, CLUSTER, 100)
    assert len(disk.measured) == 100
    assert 0.05 < found.error / found.size < 0.15


def test_what_is_the_same_everywhere_is_known_by_little() -> None:
    disk = Disk([CLUSTER] * 100_000)
    found = estimate(range(100_000), disk.measure, CLUSTER, 10_000)
    assert (found.size, found.error, len(disk.measured)) == (100_000 * CLUSTER, 0, 64)


@pytest.mark.parametrize("sizes", [mixed(20_000), sorted(mixed(20_000))], ids=["mixed", "sorted"])
def test_the_error_is_what_the_estimates_differ_by(sizes: list[int]) -> None:
    off, told = [], []
    for turn in range(100):
        turned = sizes[turn * 200 :] + sizes[: turn * 200]
        found = estimate(range(len(sizes)), Disk(turned).measure, CLUSTER, 128)
        off.append(found.size - sum(sizes))
        told.append(found.error)
    seen = statistics.pstdev(off)
    assert abs(statistics.fmean(off)) < 0.03 * sum(sizes)
    assert seen < 1.3 * statistics.fmean(told), "no promise is made that the samples do not hold"


def test_what_is_rare_is_reckoned_with_though_no_sample_has_it() -> None:
    sizes = [10] * 100_000
    found = estimate(range(100_000), Disk(sizes).measure, CLUSTER, 500)
    assert found.size == 1_000_000
    assert found.error > CLUSTER * 100_000 / 600


def test_samples_come_from_everywhere() -> None:
    disk = Disk([1] * 6400)
    estimate(range(6400), disk.measure, CLUSTER, 64)
    assert [index // 100 for index in sorted(disk.measured)] == list(range(64))


@pytest.mark.parametrize(("left", "most"), [(1, 8), (3, 8), (1, 1), (7, 1)])
def test_few_clusters_are_no_trouble(left: int, most: int) -> None:
    found = estimate(range(100, 100 + left), Disk([5] * 200).measure, CLUSTER, most)
    assert found.size == 5 * left
