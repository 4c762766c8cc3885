"""What the builtin grader finds: false alarms on rows as they are, precision and recall on rows damaged on purpose.

    python -m benchmarks.heuristic_grader alpaca.json lima.jsonl t0/ --half second
    python -m benchmarks.heuristic_grader --demo

Each path is one source in any format that dselect reads. Five damages are tried on a seeded sample of its rows,
always on the last answer: the answer of another row of the same source, a cut at 30% to 90% of the characters, one
number changed, the result of a sum changed, and a loop. `--demo` measures the faults planted in the demo corpus.

It trades realism for ground truth. Undamaged rows count as faultless, although some are not, so a true finding in
them is counted as a false alarm. A damaged row counts as faulty, although another row's answer may happen to fit.
"""

import argparse
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from random import Random

from demo.corpus import generate
from dselect_core.corpus.formats import choose_layout, read_row
from dselect_core.corpus.ingest import ingest
from dselect_core.corpus.sample import BadRow, Message
from dselect_core.graders.heuristic_grader import find_faults
from dselect_core.graders.heuristics import CHECKS
from dselect_core.graders.heuristics.turn import turns, without_special_tokens
from dselect_core.settings.settings import SourceSpec

Messages = list[Message]
ANY = "any check"
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


_SUM = re.compile(r"\d[ ]?[-+*/×÷x][ ]?\$?\d[\d.,]*[ ]?=[ ]?\$?(\d+)")


def change_result(rng: Random, answer: str) -> str | None:
    """The digits after the equals sign of one `a + b = c` replaced by others; None for an answer without a sum."""
    sums = list(_SUM.finditer(answer))
    if not sums:
        return None
    chosen = rng.choice(sums)
    return answer[: chosen.start(1)] + (change_number(rng, chosen[1]) or "") + answer[chosen.end(1) :]


def loop(rng: Random, answer: str) -> str | None:
    """The first half, and its last eight words four times more; None for an answer of less than 32 words."""
    words = answer.split()
    half = words[: len(words) // 2]
    return " ".join(half + 4 * half[-8:]) if len(half) >= 16 else None


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
        "sum changed": change_result,
        "loop": loop,
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
        flags = {name for turn in turns(messages) for name in find_faults(turn)}
        counts.update(flags)
        counts[ANY] += bool(flags)
    return counts


def print_table(header: list[str], rows: Iterable[list[str]]) -> None:
    """A Markdown table on standard output, numbers to the right."""
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_undamaged(sources: dict[str, list[Messages]]) -> None:
    """How many rows of each source a check flags as they are."""
    counts = {name: count_findings(rows) for name, rows in sources.items()}
    header = ["check", *(f"{name} ({len(rows):,} rows)" for name, rows in sources.items())]
    cells = {
        check: [f"{counts[name][check]} ({counts[name][check] / len(rows):.2%})" for name, rows in sources.items()]
        for check in [*CHECKS, ANY]
    }
    print_table(header, ([check, *row] for check, row in cells.items()))


def print_damaged(groups: dict[str, tuple[list[Messages], list[Messages]]]) -> None:
    """Per damage and check: false alarms among the undamaged rows, precision and recall.

    A check that flags neither is left out.
    """
    lines: list[list[str]] = []
    for name, (whole, damaged) in groups.items():
        alarms, caught = count_findings(whole), count_findings(damaged)
        for check in [*CHECKS, ANY]:
            if not damaged or (check != ANY and not alarms[check] and not caught[check]):
                continue
            precision = (
                f"{caught[check] / (caught[check] + alarms[check]):.0%}" if caught[check] + alarms[check] else "–"
            )
            recall = f"{caught[check]} of {len(damaged):,} ({caught[check] / len(damaged):.1%})"
            lines.append([f"{name}: {check}", f"{alarms[check]} of {len(whole):,}", precision, recall])
    print_table(["damage: check", "false alarms", "precision", "recall"], lines)


def demo_groups() -> dict[str, tuple[list[Messages], list[Messages]]]:
    """The clean rows of the demo corpus against the rows of each planted fault. The loader drops blank answers."""
    corpus = generate()
    by_label: dict[str, list[Messages]] = {}
    for label in corpus.labels:
        row = corpus.rows[label.source][label.row - 1]
        layout = choose_layout([row])
        assert layout is not None
        try:
            by_label.setdefault(label.label, []).append(read_row(row, layout).messages)
        except BadRow:
            continue
    faults = ("wrong_answer", "truncated", "empty", "off_topic")
    return {fault: (by_label["clean"], by_label[fault]) for fault in faults}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heuristic_grader", description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--half", choices=["all", "first", "second"], default="all")
    parser.add_argument("--rows", type=int, default=20000, help="rows damaged per source and damage, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", action="store_true", help="measure the faults planted in the demo corpus")
    arguments = parser.parse_args()
    sources = {path.rstrip("/").rpartition("/")[2]: read_rows(path, arguments.half) for path in arguments.paths}
    if sources:
        print("Rows as they are\n")
        print_undamaged(sources)
    for name, rows in sources.items():
        print(f"{name}, damaged\n")
        print_damaged(damage(rows, arguments.rows, arguments.seed))
    if arguments.demo:
        print("Demo corpus, planted faults\n")
        print_damaged(demo_groups())


if __name__ == "__main__":
    main()
