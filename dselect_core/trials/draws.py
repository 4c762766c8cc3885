"""What a coreset is compared with: random draws of as many rows, of as many response tokens, balanced by source. [ours]

A draw orders the pool by the hash of (draw, sample id), and takes from the front. So a larger draw holds the smaller
ones of its number, a draw of the same size is the same for all recipes, and a row that comes or goes changes a draw
only if it is drawn.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from dselect_core.fingerprint import digest
from dselect_core.select.balance import Balanced
from dselect_core.select.mixture_spec import Balance
from dselect_core.select.top_k import SortedOrder

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

    source_of: the source of each sample, one a sample. The rule is that of `balance: source` of a recipe.
    """
    names = sorted({source_of[sample_id] for sample_id in order})
    numbers = {name: number for number, name in enumerate(names)}
    groups = np.array([numbers[source_of[sample_id]] for sample_id in order], dtype=np.int64)
    ranked = SortedOrder(range(len(order)), None, None, groups)
    picks = Balanced(names, groups, Balance()).picks(ranked, [])
    return [order[pick.row] for pick in islice(picks, rows)]
