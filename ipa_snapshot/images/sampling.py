# SPDX-License-Identifier: Apache-2.0
"""How large clusters become when compressed, by compressing some of them; without any I/O."""

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Good enough: the layout pays for an error of the second estimate only, which is of a part.
_GOOD = 0.02
_BATCH = 64


@dataclass(frozen=True)
class Estimate:
    """The bytes that clusters will have, and the standard error of that, in bytes too."""

    size: int
    error: int


def estimate(
    left: Sequence[int],
    measure: Callable[[Sequence[int]], Iterable[int]],
    cluster_size: int,
    most: int,
) -> Estimate:
    """Estimate how large the clusters that are ``left`` will be, until that is good to 2 %.

    Each batch is taken evenly from everything that is left, since a disk is not the same
    everywhere.

    :param left: the numbers of the clusters, one at least.
    :param measure: returns the compressed size of each of the clusters that it is given.
    :param most: how many clusters are measured at most.
    """
    sizes: list[int] = []
    while True:
        count = max(1, min(max(_BATCH, len(sizes)), most - len(sizes)))
        chance = random.Random(len(sizes))  # the same in every run  # noqa: S311  # nosec B311
        sizes += measure(
            [left[int((n + chance.random()) * len(left) / count)] for n in range(count)]
        )
        mean = statistics.fmean(sizes)
        # What is rare may be in no sample: one cluster more, as large as can be, might have come.
        unseen = max(0.0, cluster_size - mean) / len(sizes)
        error = math.hypot(statistics.pstdev(sizes) / math.sqrt(len(sizes)), unseen)
        if error <= _GOOD * mean or len(sizes) >= most:
            return Estimate(int(mean * len(left)), math.ceil(error * len(left)))
