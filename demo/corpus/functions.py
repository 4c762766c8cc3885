"""Small Python functions with a parameter `k`, a plausible bug each, and an argument to show them on."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Function:
    """`does` completes "a function that …"; `body` and `bug` are what it returns; {k} is filled in all of them."""

    name: str
    argument: str
    does: str
    body: str
    bug: str
    example: str
    k: tuple[int, int] = (2, 9)

    def code(self, k: int, *, bug: bool = False) -> str:
        name, body = self.name.format(k=k), (self.bug if bug else self.body).format(k=k)
        return f"def {name}({self.argument}):\n    return {body}"

    def call(self, k: int) -> str:
        return f"{self.name.format(k=k)}({self.example})"

    def result(self, k: int) -> str:
        """The repr of the example call, by running the code."""
        scope: dict[str, Any] = {}
        exec(self.code(k), scope)  # our own table above, no outside text
        return repr(eval(self.call(k), scope))


FUNCTIONS = [
    Function("add_{k}", "x", "adds {k} to a number", "x + {k}", "x - {k}", "40", (2, 30)),
    Function("times_{k}", "x", "multiplies a number by {k}", "x * {k}", "x + {k}", "7", (3, 20)),
    Function("minus_{k}", "x", "subtracts {k} from a number", "x - {k}", "{k} - x", "50", (2, 30)),
    Function("is_multiple_of_{k}", "n", "tells whether n is divisible by {k}", "n % {k} == 0", "n // {k} == 0", "84",
             (2, 13)),
    Function("above_{k}", "xs", "keeps the numbers greater than {k}", "[x for x in xs if x > {k}]",
             "[x for x in xs if x < {k}]", "[3, 18, 9, 27, 1]", (2, 20)),
    Function("count_above_{k}", "xs", "counts the numbers greater than {k}", "sum(x > {k} for x in xs)",
             "sum(x for x in xs if x > {k})", "[4, 12, 7, 30]", (2, 20)),
    Function("first_{k}", "xs", "returns the first {k} items of a list", "xs[:{k}]", "xs[{k}:]", "list(range(12))"),
    Function("last_{k}", "xs", "returns the last {k} items of a list", "xs[-{k}:]", "xs[:-{k}]", "list(range(12))"),
    Function("without_first_{k}", "xs", "drops the first {k} items of a list", "xs[{k}:]", "xs[:{k}]",
             "list(range(11))"),
    Function("every_{k}", "xs", "takes every {k}th item of a list, starting with the first", "xs[::{k}]", "xs[{k}:]",
             "list(range(20))", (4, 9)),
    Function("repeat_{k}", "text", "repeats a string {k} times", "text * {k}", "text * ({k} - 1)", "'ab'"),
    Function("power_sum_{k}", "n", "sums i ** {k} for i from 1 to n", "sum(i ** {k} for i in range(1, n + 1))",
             "sum(i ** {k} for i in range(n))", "4", (2, 5)),
    Function("long_words_{k}", "text", "lists the words with more than {k} letters",
             "[w for w in text.split() if len(w) > {k}]", "[w for w in text if len(w) > {k}]",
             "'the quick brown fox jumped over'", (2, 5)),
    Function("rotate_{k}", "xs", "rotates a list to the left by {k}", "xs[{k}:] + xs[:{k}]", "xs[:{k}] + xs[{k}:]",
             "list(range(10))"),
    Function("chunks_of_{k}", "xs", "splits a list into chunks of {k}",
             "[xs[i:i + {k}] for i in range(0, len(xs), {k})]", "[xs[i:i + {k}] for i in range(len(xs))]",
             "list(range(9))", (2, 5)),
    Function("discount_{k}", "price", "takes {k} percent off a price", "price * (100 - {k}) / 100", "price - {k}",
             "200", (5, 60)),
    Function("pad_to_{k}", "text", "pads a string with spaces on the left to width {k}", "text.rjust({k})",
             "text.ljust({k})", "'hi'", (4, 12)),
    Function("mask_to_{k}", "text", "hides all but the last {k} characters of a string with stars",
             "'*' * (len(text) - {k}) + text[-{k}:]", "'*' * {k} + text[{k}:]", "'4929123456'", (2, 6)),
    Function("countdown_by_{k}", "n", "lists the numbers from n down to 1 in steps of {k}",
             "list(range(n, 0, -{k}))", "list(range(0, n, {k}))", "20"),
    Function("capped_at_{k}", "xs", "replaces every number over {k} by {k}", "[min(x, {k}) for x in xs]",
             "[max(x, {k}) for x in xs]", "[2, 40, 8, 16]", (3, 25)),
    Function("has_{k}_letters", "word", "checks that a word has exactly {k} letters", "len(word) == {k}",
             "len(word) >= {k}", "'planet'", (3, 9)),
    Function("sum_of_multiples_{k}", "n", "adds up the multiples of {k} below n", "sum(range(0, n, {k}))",
             "sum(range({k}, n))", "30"),
    Function("last_digits_{k}", "n", "returns the last {k} digits of a whole number as an int", "n % 10 ** {k}",
             "n // 10 ** {k}", "987654321", (2, 6)),
    Function("at_least_{k}", "prices", "keeps the dictionary entries whose value is at least {k}",
             "{{name: p for name, p in prices.items() if p >= {k}}}",
             "{{name: p for name, p in prices.items() if p < {k}}}", "{'pen': 2, 'book': 12, 'bag': 30}", (3, 25)),
    Function("plural_{k}", "word", "returns a string such as '{k} cats' for a word", "f'{k} {{word}}s'",
             "f'{k}{{word}}'", "'cat'", (2, 20)),
    Function("shorten_to_{k}", "text", "cuts a string to {k} characters and adds '...' when it was longer",
             "text if len(text) <= {k} else text[:{k}] + '...'", "text[:{k}] + '...'", "'information'", (3, 14)),
    Function("average_plus_{k}", "xs", "returns the mean of a list plus {k}", "sum(xs) / len(xs) + {k}",
             "sum(xs) / (len(xs) + {k})", "[2, 4, 9]", (1, 12)),
    Function("with_{k}_digits", "n", "formats a number with leading zeros to {k} digits", "str(n).zfill({k})",
             "str(n) + '0' * {k}", "427", (4, 10)),
]  # fmt: skip
