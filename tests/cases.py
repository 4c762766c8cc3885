"""How many random small cases a comparison with brute force tries: DSELECT_CASES=1000 is how they are meant.

Fewer by default, so that all tests end in time; the number is printed at the end of a run.
"""

import os

CASES = int(os.environ.get("DSELECT_CASES", "80"))
