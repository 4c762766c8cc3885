"""The scale `probability`, wherever the judge runs: how probable its yes is, of yes and no together.

    grade = P(yes) / (P(yes) + P(no))     [ours; P of the first token of the judge's answer]

Each P is summed over the tokens that are the word: in lower case, capitalised or upper case, with and without the space
in front. There is no grade where yes and no together have less than LEAST_SHARE of the probability: then the judge
answers something else, and the ratio would be noise. A change here that can change a grade raises the VERSION of both
judges (local_judge.py, openai_grader.py).
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

SCALE = "probability"
LEAST_SHARE = 0.01
YES, NO = "yes", "no"
_ROUNDING = 0.01  # nats by which a probability of 1 may come out larger


def spellings(word: str) -> tuple[str, ...]:
    """The word in lower case, capitalised and in upper case."""
    return word, word.capitalize(), word.upper()


def summed(logprobs: Iterable[float]) -> float:
    """Log of the sum of the probabilities; -inf for none."""
    with np.errstate(invalid="ignore"):  # a NaN is told by `outcome`
        return float(np.logaddexp.reduce(np.fromiter(logprobs, np.float64), initial=-math.inf))


def outcome(logprob_yes: float, logprob_no: float) -> dict[str, Any]:
    """The columns `grade` in [0, 1], or `error` where there is none, and both log-probabilities [nats], null where they
    are not finite: -inf is no chance at all.
    """
    logprobs = {"logprob_yes": _finite(logprob_yes), "logprob_no": _finite(logprob_no)}
    if not max(logprob_yes, logprob_no) < _ROUNDING or math.isnan(logprob_no):
        return {"error": "the judge's probabilities are not finite, or above 1"}
    share = math.exp(logprob_yes) + math.exp(logprob_no)
    if share < LEAST_SHARE:
        error = f"the judge answers neither yes nor no: together they have {share:.2%} of its first token"
        return {"error": error, **logprobs}
    return {"grade": 1 / (1 + math.exp(min(logprob_no - logprob_yes, 700.0))), **logprobs}


def _finite(logprob: float) -> float | None:
    return logprob if math.isfinite(logprob) else None
