"""What a coreset is compared with: random draws of as many rows, of as many response tokens, balanced by source. [ours]

A draw orders the pool by the hash of (draw, sample id), and takes from the front. So a larger draw holds the smaller
ones of its number, a draw of the same size is the same for all recipes, and a row that comes or goes changes a draw
only if it is drawn.
"""

from collections.abc import Mapping, Sequence

from dselect_core.fingerprint import digest

CORESET, RANDOM, TOKENS, BALANCED, POOL, UNTUNED = (
    "coreset",
    "random",
    "random tokens",
    "random balanced",
    "pool",
    "untuned",
)
"""Names of training sets, as a report has them; multiples of the budget are `random x2`."""


def multiple(factor: int) -> str:
    """Name of the random draws of `factor` times the budget."""
    return RANDOM if factor == 1 else f"{RANDOM} x{factor}"


def is_drawn(name: str) -> bool:
    """Whether the sets of this name differ from run to run, because each is a draw of its own."""
    return name.startswith(RANDOM)


def draw_order(ids: Sequence[str], number: int) -> list[str]:
    """The samples in the order of draw `number`: no strategy `random` of a recipe has the same."""
    return sorted(ids, key=lambda sample_id: digest(["trial", str(number), sample_id]))


def take_tokens(order: Sequence[str], lengths: Mapping[str, int], tokens: int) -> list[str]:
    """From the front, until the response tokens are nearest to `tokens`. lengths: response tokens by sample.

    Samples without a known length are passed over. At least one sample is taken, if any has a length.
    """
    taken: list[str] = []
    total = 0
    for sample_id in order:
        length = lengths.get(sample_id)
        if length is None:
            continue
        if taken and abs(total + length - tokens) > abs(total - tokens):
            break
        taken.append(sample_id)
        total += length
    return taken


def take_balanced(order: Sequence[str], source_of: Mapping[str, str], rows: int) -> list[str]:
    """As many samples of each source, from the front of each; a source that has too few leaves its share to the others.

    source_of: the source of each sample, one a sample. Where the rows do not divide, the first sources by name have one
    more.
    """
    by_source: dict[str, list[str]] = {}
    for sample_id in order:
        by_source.setdefault(source_of[sample_id], []).append(sample_id)
    share = dict.fromkeys(sorted(by_source), 0)
    remaining = min(rows, len(order))
    while remaining:
        for source in share:
            if remaining and share[source] < len(by_source[source]):
                share[source] += 1
                remaining -= 1
    return [sample_id for source, count in share.items() for sample_id in by_source[source][:count]]
