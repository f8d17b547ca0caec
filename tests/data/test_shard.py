"""How samples are shared out among batches and processes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.loader import Shard


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 7))
def test_processes_share_out_batches_exactly_once_in_as_many_steps(n, batch_size, count):
    if 0 < n < count:
        with pytest.raises(ValueError, match=f"{n} samples cannot be split among {count} processes"):
            Shard(0, count).batches(n, batch_size)
        return
    cuts = [Shard(rank, count).batches(n, batch_size) for rank in range(count)]
    spans = [[(begin, end) for begin, end, _ in one] for one in cuts]
    assert len({len(one) for one in spans}) == 1
    assert all(begin < end for one in spans for begin, end in one)
    assert sorted(i for one in spans for span in one for i in range(*span)) == list(range(n))
    steps = [sorted(i for span in step for i in range(*span)) for step in zip(*spans, strict=True)]
    alone = Shard().batches(n, batch_size * count)
    assert [step[0] for step in steps] == [begin for begin, _, _ in alone][: len(steps)]
    assert all(one[-1] + 1 == other[0] for one, other in pairwise(steps))
    if batch_size > 1 and len(steps) > 1:
        assert all(end - begin > 1 for one in spans for begin, end in one)
    assert all(abs((one[1] - one[0]) - (other[1] - other[0])) <= 1 for step in zip(*spans, strict=True)
               for one in step for other in step)  # fmt: skip
    for step in zip(*cuts, strict=True):  # weighted by them, the processes' means average to the mean of the samples
        total = sum(end - begin for begin, end, _ in step)
        assert [weight / count for *_, weight in step] == pytest.approx(
            [(end - begin) / total for begin, end, _ in step]
        )
