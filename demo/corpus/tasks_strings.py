"""String manipulation on words and short phrases; answers come from Python's own string methods."""

from random import Random

from demo.corpus.task import Maker, Task, ask, listing, slip
from demo.corpus.words import ADJECTIVES, ANAGRAMS, PALINDROMES, WORDS

VOWELS = "aeiou"


def _phrase(rng: Random, low: int = 3, high: int = 6) -> list[str]:
    return [rng.choice(ADJECTIVES), *rng.sample(WORDS, rng.randint(low, high) - 1)]


def _misspell(rng: Random, text: str) -> str:
    """Two neighbouring, different letters swapped; the text itself when all are alike."""
    places = [i for i in range(len(text) - 1) if text[i] != text[i + 1]]
    if not places:
        return text + text[0]
    i = rng.choice(places)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _reverse(rng: Random) -> Task:
    word = rng.choice(WORDS)
    back = word[::-1]
    return ask(
        rng, "strings/reverse",
        ["Reverse the string '{w}'.", "Spell '{w}' backwards.",
         "What do you get if you write '{w}' from right to left?", ("Reverse the word.", "{w}"),
         "Return '{w}' in reverse order."],
        ["{b}", "'{w}' backwards is '{b}'.", "Reading from the last letter to the first gives '{b}'.",
         "The letters are {letters}. Taken from the end they spell '{b}'."],
        {"w": word, "b": back, "letters": "-".join(word)}, {"b": _misspell(rng, back)}, problem=word,
    )  # fmt: skip


def _reverse_words(rng: Random) -> Task:
    words = _phrase(rng)
    return ask(
        rng, "strings/reverse_words",
        ["Reverse the order of the words: {p}", "Write '{p}' with its words in the opposite order.",
         ("Reverse the word order.", "{p}")],
        ["{r}", "In reverse order: {r}", "The last word comes first now: '{r}'."],
        {"p": " ".join(words), "r": " ".join(reversed(words))}, {"r": " ".join(words)},
    )  # fmt: skip


def _count_letter(rng: Random) -> Task:
    text = " ".join(_phrase(rng, 2, 5))
    letter = rng.choice(sorted(set(text) - {" "}))
    n = text.count(letter)
    holders = listing([w for w in text.split() if letter in w])
    return ask(
        rng, "strings/count_letter",
        ["How many times does the letter '{l}' occur in '{t}'?", "Count the letter {l} in: {t}",
         ("Count how often '{l}' appears in the text.", "{t}"), "Number of '{l}' in \"{t}\"?"],
        ["{n}", "The letter '{l}' occurs {n} time(s).", "{n}. It is found in: {holders}.",
         "I count {n} of the letter '{l}' in '{t}'."], {"l": letter, "t": text, "n": n, "holders": holders},
        {"n": n + rng.choice([1, 2])}, problem=(text, letter),
    )  # fmt: skip


def _vowels(rng: Random) -> Task:
    word = rng.choice(WORDS) + rng.choice(["", " " + rng.choice(WORDS)])
    found = [c for c in word if c in VOWELS]
    n = len(found)
    return ask(
        rng, "strings/count_vowels",
        ["How many vowels are in '{w}'?", "Count the vowels (a, e, i, o, u) in '{w}'.", ("Count the vowels.", "{w}")],
        ["{n}", "There are {n} vowels: {found}.", "'{w}' has {n} vowels.",
         "Going through the letters I find {found}, so {n} vowels."], {"w": word, "n": n, "found": listing(found)},
        {"n": slip(rng, n)}, problem=word,
    )  # fmt: skip


def _case(rng: Random) -> Task:
    text = " ".join(_phrase(rng, 2, 5))
    how, right, wrong = rng.choice([
        ("upper case", text.upper(), text.title()), ("title case", text.title(), text.capitalize()),
        ("snake_case", text.replace(" ", "_"), text.replace(" ", "-")),
        ("kebab-case", text.replace(" ", "-"), text.replace(" ", "_")),
        ("PascalCase", text.title().replace(" ", ""), text.replace(" ", "")),
        ("camelCase", text[0] + text.title().replace(" ", "")[1:], text.title().replace(" ", "")),
    ])  # fmt: skip
    return ask(
        rng, "strings/case",
        ["Write '{t}' in {how}.", "Convert the text to {how}: {t}", ("Change to {how}.", "{t}"),
         "How does '{t}' look in {how}?"], ["{r}", "In {how}: {r}", "'{t}' becomes '{r}'."],
        {"t": text, "how": how, "r": right}, {"r": wrong}, problem=(text, how),
    )  # fmt: skip


def _palindrome(rng: Random) -> Task:
    word = rng.choice(PALINDROMES if rng.random() < 0.4 else WORDS)
    yes = word == word[::-1]
    verdict, no = ("Yes", "No") if yes else ("No", "Yes")
    return ask(
        rng, "strings/palindrome",
        ["Is '{w}' a palindrome?", "Does '{w}' read the same backwards?", ("Palindrome check.", "{w}")],
        ["{v}", "{v}. Backwards it reads '{b}'.", "{v}: '{w}' reversed is '{b}', which is {same}."],
        {"w": word, "v": verdict, "b": word[::-1], "same": "the same word" if yes else "not the same"}, {"v": no},
        problem=word,
    )  # fmt: skip


def _acronym(rng: Random) -> Task:
    words = _phrase(rng, 3, 5)
    right = "".join(w[0].upper() for w in words)
    return ask(
        rng, "strings/acronym",
        ["Make an acronym from '{p}'.", "What are the initials of '{p}'?", ("Build the acronym.", "{p}")],
        ["{r}", "The acronym is {r}.", "Taking the first letter of each word gives {r}."],
        {"p": " ".join(words), "r": right}, {"r": right[:-1] + rng.choice([c for c in "XZQWY" if c != right[-1]])},
    )  # fmt: skip


def _position(rng: Random) -> Task:
    word = rng.choice([w for w in WORDS if len(w) > 5])
    i = rng.randint(2, len(word))
    ordinal = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"}[i]
    return ask(
        rng, "strings/position",
        ["What is the {o} letter of '{w}'?", "Give the {o} character of the word {w}.",
         ("Name the {o} letter.", "{w}")],
        ["{c}", "The {o} letter of '{w}' is '{c}'.", "Counting {count} the answer is '{c}'."],
        {"w": word, "o": ordinal, "c": word[i - 1],
         "count": " ".join(f"{k}:{c}" for k, c in enumerate(word[: i - 1], 1)) + " and then " + str(i)},
        {"c": rng.choice([c for c in "abcdefgh" if c != word[i - 1]])}, problem=(word, i),
    )  # fmt: skip


def _replace(rng: Random) -> Task:
    text = " ".join(_phrase(rng, 2, 5))
    old = rng.choice(sorted(set(text) - {" "}))
    new = rng.choice(["*", "_", "#", "0", "z", "x"])
    while new == old:
        new = rng.choice(["*", "_", "#"])
    return ask(
        rng, "strings/replace",
        ["Replace every '{old}' with '{new}' in '{t}'.", "In the text '{t}', change each '{old}' to '{new}'.",
         ("Replace '{old}' by '{new}'.", "{t}")],
        ["{r}", "The result is: {r}", "After the replacement the text reads '{r}'."],
        {"t": text, "old": old, "new": new, "r": text.replace(old, new)},
        {"r": _misspell(rng, text.replace(old, new))}, problem=(text, old, new),
    )  # fmt: skip


def _remove_vowels(rng: Random) -> Task:
    text = " ".join(_phrase(rng, 2, 4))
    right = "".join(c for c in text if c not in VOWELS)
    return ask(
        rng, "strings/remove_vowels",
        ["Remove all vowels from '{t}'.", "What is left of '{t}' without a, e, i, o and u?",
         ("Delete the vowels.", "{t}")], ["{r}", "Without vowels: {r}", "Only the consonants stay: '{r}'."],
        {"t": text, "r": right}, {"r": _misspell(rng, right)}, problem=text,
    )  # fmt: skip


def _words(rng: Random) -> Task:
    words = _phrase(rng, 4, 9)
    text, longest = " ".join(words), max(words, key=len)
    if rng.random() < 0.5:
        return ask(
            rng, "strings/count_words",
            ["How many words are in '{t}'?", ("Count the words.", "{t}"), "Word count of: {t}"],
            ["{n}", "The text has {n} words.", "There are {n} words, from '{first}' to '{last}'."],
            {"t": text, "n": len(words), "first": words[0], "last": words[-1]}, {"n": slip(rng, len(words))},
            problem=text,
        )  # fmt: skip
    return ask(
        rng, "strings/longest_word",
        ["Which is the longest word in '{t}'? If several tie, give the first.",
         ("Find the first longest word.", "{t}")], ["{w}", "The longest word is '{w}' with {n} letters.", "'{w}'"],
        {"t": text, "w": longest, "n": len(longest)}, {"w": next(w for w in words if w != longest)}, problem=text,
    )  # fmt: skip


def _anagram(rng: Random) -> Task:
    a, b = rng.choice(ANAGRAMS)
    if rng.random() < 0.5:
        a, b = b, a
    if rng.random() < 0.5:
        b = rng.choice([w for w in WORDS if sorted(w) != sorted(a)])
    yes = sorted(a) == sorted(b)
    return ask(
        rng, "strings/anagram",
        ["Are '{a}' and '{b}' anagrams?", "Can '{a}' be rearranged to spell '{b}'?", ("Anagram check.", "{a} / {b}")],
        ["{v}", "{v}. Sorted, the letters are {x} and {y}.", "{v}, '{a}' and '{b}' {do} use the same letters."],
        {"a": a, "b": b, "v": "Yes" if yes else "No", "do": "do" if yes else "do not", "x": "".join(sorted(a)),
         "y": "".join(sorted(b))}, {"v": "No" if yes else "Yes"}, problem=sorted([a, b]),
    )  # fmt: skip


def _caesar(rng: Random) -> Task:
    word, k = rng.choice(WORDS), rng.choice([1, 2, 3, 4, 5, 13])

    def shifted(by: int) -> str:
        return "".join(chr((ord(c) - 97 + by) % 26 + 97) for c in word)

    return ask(
        rng, "strings/caesar",
        ["Encode '{w}' with a Caesar shift of {k}.", "Shift every letter of '{w}' forward by {k}.",
         ("Apply a Caesar cipher, key {k}.", "{w}")],
        ["{r}", "With a shift of {k}, '{w}' becomes '{r}'.", "The first letter '{c}' moves to '{d}', and so on: {r}"],
        {"w": word, "k": k, "r": shifted(k), "c": word[0], "d": shifted(k)[0]},
        {"r": shifted(k + 1), "d": shifted(k + 1)[0]}, problem=(word, k),
    )  # fmt: skip


def _join(rng: Random) -> Task:
    words = rng.sample(WORDS, rng.randint(3, 6))
    name, sep = rng.choice([
        ("hyphens", "-"), ("semicolons", ";"), ("slashes", "/"), ("underscores", "_"), ("plus signs", "+"),
        ("dots", "."),
    ])  # fmt: skip
    return ask(
        rng, "strings/join",
        ["Join these words with {n}: {ws}", "Put {n} between the words {ws}.", ("Join with {n}.", "{ws}")],
        ["{r}", "Joined with {n}: {r}", "The result is '{r}', a single string of {k} words."],
        {"ws": listing(words), "n": name, "r": sep.join(words), "k": len(words)}, {"r": sep.join(words[:-1])},
    )  # fmt: skip


MAKERS: list[Maker] = [
    _reverse, _reverse_words, _count_letter, _vowels, _case, _palindrome, _acronym, _position, _replace,
    _remove_vowels, _words, _anagram, _caesar, _join,
]  # fmt: skip
