"""Length-sorted batches under a token budget, padding included.

Sorting by length keeps padding near zero without packing; ties go by position, so the same
sequences always make the same batches.
"""

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield lists of positions whose padded size, rows × longest, is at most `budget` tokens.

    A sequence longer than the budget makes a batch of its own. Longest first, so that memory peaks at
    the start and not after an hour.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
