"""What the builtin grader finds: false alarms on rows as they are, precision and recall on rows damaged on purpose.

    python -m benchmarks.heuristic_grader alpaca.json lima.jsonl t0/ --half second
    python -m benchmarks.heuristic_grader --demo

Each path is one source in any format that dselect reads. Four damages are tried on a seeded sample of its rows, always
on the last answer: the answer of another row of the same source, a cut at 30% to 90% of the characters, one number
changed, and one number of an equation changed. `--demo` measures the faults planted in the demo corpus instead.

It trades realism for ground truth. Undamaged rows count as faultless, although some are not, so a true finding in
them is counted as a false alarm. A damaged row counts as faulty, although another row's answer may happen to fit.
"""

import argparse
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from random import Random

from rich.console import Console
from rich.table import Table

from demo.corpus import generate
from dselect_core.corpus.formats import choose, read
from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.sample import BadRow, Message
from dselect_core.graders.heuristics import CHECKS
from dselect_core.graders.heuristics.turn import turns, without_special_tokens
from dselect_core.settings.settings import SourceSpec

Messages = list[Message]
ANY = "any check"
NAMES = [check.__name__ for check in CHECKS]
_EQUATION = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?: ?[-+*/×÷] ?\d+(?:\.\d+)?)+ ?= ?\d+(?:\.\d+)?")
SHORTEST_CUT = 40
"""Characters of the shortest answer that is cut: a shorter one is often whole at any length."""


def read_rows(path: str, half: str) -> list[Messages]:
    """The distinct conversations of a source, or those of one half of it.

    Halves are of whole files where a source has several (rows of one template stay together), else of rows. The
    split depends on names and content only, never on a seed.
    """
    ingested = ingest(path, SourceSpec(path=path))
    whole_files = len(ingested.files) > 1
    rows: list[Messages] = []
    for sample_id, messages, origins in ingested.samples.select("sample_id", "messages", "origins").iter_rows():
        key = origins[0]["file"].rpartition("/")[2] if whole_files else sample_id
        if half == "all" or ("first", "second")[zlib.crc32(key.encode()) % 2] == half:
            rows.append(messages)
    return rows


def with_last_answer(messages: Messages, answer: str) -> Messages:
    """The conversation up to its last answer, with ANSWER in its place."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return [*messages[:last], {**messages[last], "content": answer}]


def last_answer(messages: Messages) -> str:
    """The last answer without special tokens around it."""
    return without_special_tokens([m["content"] for m in messages if m["role"] == "assistant"][-1])


def cut(rng: Random, answer: str) -> str | None:
    """The first 30% to 90% of the characters; None for a short answer."""
    return None if len(answer) < SHORTEST_CUT else answer[: int(len(answer) * rng.uniform(0.3, 0.9))].rstrip()


def change_number(rng: Random, answer: str) -> str | None:
    """One run of digits replaced by another of the same length; None for an answer without digits."""
    numbers = list(re.finditer(r"\d+", answer))
    if not numbers:
        return None
    number = rng.choice(numbers)
    changed = number[0]
    while changed == number[0]:
        changed = "".join(rng.choice("123456789" if i == 0 else "0123456789") for i in range(len(number[0])))
    return answer[: number.start()] + changed + answer[number.end() :]


def change_equation(rng: Random, answer: str) -> str | None:
    """One number of an equation like `12 + 7 = 19` replaced; None for an answer without one."""
    equations = list(_EQUATION.finditer(answer))
    if not equations:
        return None
    equation = rng.choice(equations)
    changed = change_number(rng, equation[0])
    assert changed is not None
    return answer[: equation.start()] + changed + answer[equation.end() :]


def damage(rows: list[Messages], limit: int, seed: int) -> dict[str, tuple[list[Messages], list[Messages]]]:
    """Per damage: at most LIMIT rows as they are, and the same rows damaged. Empty answers are never used."""
    rng = Random(seed)
    answered = [messages for messages in rows if re.search(r"\w", last_answer(messages))]
    answered = rng.sample(answered, len(answered))
    answers = [last_answer(messages) for messages in answered]

    def other_answer(rng: Random, answer: str) -> str | None:
        return next((other for other in (rng.choice(answers) for _ in range(20)) if other != answer), None)

    damages = {
        "another row's answer": other_answer,
        "cut": cut,
        "number changed": change_number,
        "number of an equation changed": change_equation,
    }
    pairs: dict[str, tuple[list[Messages], list[Messages]]] = {}
    for name, spoil in damages.items():
        whole: list[Messages] = []
        spoilt: list[Messages] = []
        for messages, answer in zip(answered, answers, strict=True):
            if len(whole) < limit and (changed := spoil(rng, answer)) is not None:
                whole.append(with_last_answer(messages, answer))
                spoilt.append(with_last_answer(messages, changed))
        pairs[name] = whole, spoilt
    return pairs


def count_findings(rows: Iterable[Messages]) -> Counter[str]:
    """How many conversations each check flags in at least one answer, and how many ANY check flags."""
    counts: Counter[str] = Counter()
    for messages in rows:
        flags = {check.__name__ for turn in turns(messages) for check in CHECKS if check(turn) is not None}
        counts.update(flags)
        counts[ANY] += bool(flags)
    return counts


def table_of(title: str, groups: dict[str, tuple[list[Messages], list[Messages]]]) -> Table:
    """Per check and group: false alarms among the undamaged rows, precision and recall on the damaged ones."""
    table = Table("check", title=title)
    columns: list[list[str]] = []
    for name, (whole, spoilt) in groups.items():
        alarms, caught = count_findings(whole), count_findings(spoilt)
        table.add_column(f"{name}\n{len(whole):,} whole\nfalse alarms", justify="right")
        table.add_column(f"\n{len(spoilt):,} spoilt\nprecision", justify="right")
        table.add_column("\n\nrecall", justify="right")
        cells = [_cells(alarms[check], len(whole), caught[check], len(spoilt)) for check in [*NAMES, ANY]]
        columns += [list(column) for column in zip(*cells, strict=True)]
    for at, check in enumerate([*NAMES, ANY]):
        table.add_row(check, *(column[at] for column in columns))
    return table


def _cells(alarms: int, whole: int, caught: int, spoilt: int) -> tuple[str, str, str]:
    precision = f"{caught / (caught + alarms):.0%}" if caught + alarms else "–"
    return f"{alarms / whole:.2%}" if whole else "–", precision, f"{caught / spoilt:.1%}" if spoilt else "–"


def undamaged_table(sources: dict[str, list[Messages]]) -> Table:
    """How many rows of each source a check flags as they are."""
    table = Table("check", title="rows as they are")
    counts = {name: count_findings(rows) for name, rows in sources.items()}
    for name, rows in sources.items():
        table.add_column(f"{name}\n{len(rows):,} rows", justify="right")
    for check in [*NAMES, ANY]:
        table.add_row(
            check, *(f"{found[check]} ({found[check] / len(sources[name]):.2%})" for name, found in counts.items())
        )
    return table


def demo_groups() -> dict[str, tuple[list[Messages], list[Messages]]]:
    """The clean rows of the demo corpus against the rows of each planted fault. The loader drops blank answers."""
    corpus = generate()
    by_label: dict[str, list[Messages]] = {}
    for label in corpus.labels:
        row = corpus.rows[label.source][label.row - 1]
        layout = choose([row])
        assert layout is not None
        try:
            by_label.setdefault(label.label, []).append(read(row, layout))
        except BadRow:
            continue
    faults = ("wrong_answer", "truncated", "empty", "off_topic")
    return {fault: (by_label["clean"], by_label[fault]) for fault in faults}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heuristic_grader", description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--half", choices=["all", "first", "second"], default="all")
    parser.add_argument("--rows", type=int, default=3000, help="rows damaged per source and damage, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", action="store_true", help="measure the faults planted in the demo corpus")
    arguments = parser.parse_args()
    console = Console(width=200)
    sources = {path.rstrip("/").rpartition("/")[2]: read_rows(path, arguments.half) for path in arguments.paths}
    if sources:
        console.print(undamaged_table(sources))
    for name, rows in sources.items():
        console.print(table_of(f"{name}, damaged", damage(rows, arguments.rows, arguments.seed)))
    if arguments.demo:
        console.print(table_of("demo corpus, planted faults", demo_groups()))


if __name__ == "__main__":
    main()
