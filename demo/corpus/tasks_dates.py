"""Calendar and clock: weekdays, spans, leap years, ISO notation, durations. All answers come from `datetime`."""

from datetime import date, timedelta
from random import Random

from demo.corpus.task import Maker, Task, ask, slip

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]  # fmt: skip


def _day(rng: Random, first: int = 1950, last: int = 2040) -> date:
    return date(first, 1, 1) + timedelta(days=rng.randrange((date(last, 12, 31) - date(first, 1, 1)).days))


def long(day: date) -> str:
    """`5 March 2024`"""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _weekday(rng: Random) -> Task:
    day = _day(rng)
    right = DAYS[day.weekday()]
    return ask(
        rng, "dates/weekday",
        ["What day of the week was {d}?", "Which weekday is {iso}?", "On what day does {d} fall?",
         ("Name the weekday of the date.", "{iso}"), "Find the weekday for {d}."],
        ["{w}", "{d} is a {w}.", "It falls on a {w}.", "The date {iso} lands on a {w} in the Gregorian calendar."],
        {"d": long(day), "iso": day.isoformat(), "w": right}, {"w": DAYS[(day.weekday() + rng.randint(1, 6)) % 7]},
        problem=day,
    )  # fmt: skip


def _between(rng: Random) -> Task:
    a, n = _day(rng), rng.randint(9, 240)
    b = a + timedelta(days=n)
    return ask(
        rng, "dates/between",
        ["How many days are there from {a} to {b}?", "Count the days between {a} and {b}.",
         ("Give the number of days from the first date to the second.", "{ai}\n{bi}"),
         "A project starts on {a} and ends on {b}. How many days later is the end?"],
        ["{n} days", "From {a} to {b} it is {n} days.", "{n}", "That is {n} days, or {w} full weeks and {r} days."],
        {"a": long(a), "b": long(b), "ai": a.isoformat(), "bi": b.isoformat(), "n": n, "w": n // 7, "r": n % 7},
        {"n": slip(rng, n)}, problem=(a, n),
    )  # fmt: skip


def _add_days(rng: Random) -> Task:
    a, n = _day(rng), rng.randint(5, 120)
    back = rng.random() < 0.35
    b = a - timedelta(days=n) if back else a + timedelta(days=n)
    w = b + timedelta(days=rng.choice([-30, -2, -1, 1, 2, 31]))
    return ask(
        rng, "dates/shift",
        ["What date is {n} days {dir} {a}?", "Which date comes {n} days {dir} {a}?",
         ("Compute the date.", "{n} days {dir} {ai}"), "Starting from {a}, what is the date {n} days {way}?"],
        ["{b}", "It is {b}.", "{n} days {dir} {a} is {b}.", "{bi}",
         "Moving {n} days {way} from {a} brings you to {b} ({bi})."],
        {"a": long(a), "ai": a.isoformat(), "b": long(b), "bi": b.isoformat(), "n": n,
         "dir": "before" if back else "after", "way": "earlier" if back else "later"},
        {"b": long(w), "bi": w.isoformat()}, problem=(a, b),
    )  # fmt: skip


def _leap(rng: Random) -> Task:
    year = rng.choice([rng.randint(1600, 2400), 100 * rng.randint(15, 27), 4 * rng.randint(400, 600)])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year % 400 == 0:
        why = "it is divisible by 400"
    elif year % 100 == 0:
        why = "it is divisible by 100 but not by 400"
    elif leap:
        why = "it is divisible by 4 and not by 100"
    else:
        why = "it is not divisible by 4"
    return ask(
        rng, "dates/leap_year",
        ["Is {y} a leap year?", "Does the year {y} have 366 days?", "Tell me whether {y} is a leap year and why.",
         ("Leap year, yes or no?", "{y}")],
        ["{v}.", "{v}, because {why}.", "{v}. The year {y} has {n} days.", "{v}: {y} has {n} days, as {why}."],
        {"y": year, "v": "Yes" if leap else "No", "why": why, "n": 366 if leap else 365},
        {"v": "No" if leap else "Yes", "n": 365 if leap else 366}, problem=year,
    )  # fmt: skip


def _iso(rng: Random) -> Task:
    day = _day(rng, 1900, 2060)
    month, number = (day.day, day.month) if day.day != day.month else (day.month, day.day + 1)
    swapped = f"{day.year}-{month:02}-{number:02}"
    return ask(
        rng, "dates/iso_format",
        ["Write {d} in ISO format (YYYY-MM-DD).", "Convert '{us}' to YYYY-MM-DD.",
         ("Rewrite the date as YYYY-MM-DD.", "{d}"), "What is {us} as an ISO 8601 date?"],
        ["{iso}", "In ISO 8601 that is {iso}.", "{us} becomes {iso}."],
        {"d": long(day), "us": f"{MONTHS[day.month - 1]} {day.day}, {day.year}", "iso": day.isoformat()},
        {"iso": swapped}, problem=day,
    )  # fmt: skip


def _day_of_year(rng: Random) -> Task:
    day = _day(rng)
    n = day.timetuple().tm_yday
    return ask(
        rng, "dates/day_of_year",
        ["Which day of the year is {d}?", "What is the ordinal day number of {d}?",
         "Counting 1 January as day 1, what number is {d}?"],
        ["{n}", "{d} is day {n} of the year.", "Day {n}: {before} days have gone by before it."],
        {"d": long(day), "n": n, "before": n - 1}, {"n": slip(rng, n)}, problem=day,
    )  # fmt: skip


def _duration(rng: Random) -> Task:
    start, span = rng.randint(5 * 60, 17 * 60), rng.randint(22, 380)
    end, w = start + span, span + rng.choice([-60, -10, 10, 40, 60] if span > 60 else [-10, 10, 40])
    what = rng.choice(["film", "meeting", "train ride", "exam", "football match", "concert", "flight", "workshop"])
    return ask(
        rng, "dates/duration",
        ["A {what} starts at {a} and ends at {b}. How long does it last?", "How much time passes from {a} to {b}?",
         ("Compute the duration.", "from {a} to {b}"),
         "The {what} runs from {a} until {b}. What is its length in hours and minutes?"],
        ["{h} h {m} min", "It lasts {h} hours and {m} minutes.",
         "From {a} to {b} there are {t} minutes, which is {h} h {m} min."],
        {"what": what, "a": _clock(start), "b": _clock(end), "t": span, "h": span // 60, "m": span % 60},
        {"t": w, "h": w // 60, "m": w % 60}, problem=(start, end),
    )  # fmt: skip


def _clock_shift(rng: Random) -> Task:
    start, span = rng.randint(0, 24 * 60 - 1), rng.randint(15, 400)
    end, w = (start + span) % (24 * 60), (start + span + rng.choice([-60, -15, 10, 60])) % (24 * 60)
    return ask(
        rng, "dates/clock",
        ["What time is it {n} minutes after {a}?", "The clock shows {a}. What will it show in {n} minutes?",
         "Add {n} minutes to {a}.", "A cake goes into the oven at {a} for {n} minutes. When is it done?"],
        ["{b}", "It will be {b}.", "{n} minutes are {h} h {m} min, so from {a} we arrive at {b}."],
        {"a": _clock(start), "b": _clock(end), "n": span, "h": span // 60, "m": span % 60}, {"b": _clock(w)},
        problem=(start, span),
    )  # fmt: skip


def _twelve_hours(rng: Random) -> Task:
    minutes = rng.randint(0, 24 * 60 - 1)
    hour = minutes // 60
    text = f"{(hour - 1) % 12 + 1}:{minutes % 60:02}"
    right, wrong = (f"{text} am", f"{text} pm") if hour < 12 else (f"{text} pm", f"{text} am")
    if rng.random() < 0.5:
        return ask(
            rng, "dates/twelve_hour",
            ["Write {a} in 12-hour format.", "How do you say {a} with am or pm?",
             ("Convert to a 12-hour clock.", "{a}")], ["{v}", "{a} is {v}.", "On a 12-hour clock {a} reads {v}."],
            {"a": _clock(minutes), "v": right}, {"v": wrong}, problem=minutes,
        )  # fmt: skip
    return ask(
        rng, "dates/twelve_hour", ["Write {v} in 24-hour format.", "What is {v} on a 24-hour clock?"],
        ["{a}", "{v} is {a}.", "On a 24-hour clock {v} is written {a}."], {"a": _clock(minutes), "v": right},
        {"a": _clock((minutes + 720) % 1440)}, problem=minutes,
    )  # fmt: skip


def _birthday(rng: Random) -> Task:
    born, today = _day(rng, 1940, 2010), _day(rng, 2018, 2032)
    age = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    return ask(
        rng, "dates/age",
        ["Someone was born on {b}. How old are they on {t}?", "How old is a person born {b} on {t}?",
         ("Compute the age in full years.", "born: {bi}\ntoday: {ti}")],
        ["{n}", "{n} years old", "They are {n}. {reason}"],
        {"b": long(born), "t": long(today), "bi": born.isoformat(), "ti": today.isoformat(), "n": age,
         "reason": "The birthday that year is still to come." if age < today.year - born.year else "The birthday "
         "that " "" "year has already been reached."}, {"n": age + rng.choice([-1, 1])}, problem=(born, today),
    )  # fmt: skip


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"


MAKERS: list[Maker] = [
    _weekday, _weekday, _between, _add_days, _leap, _iso, _day_of_year, _duration, _clock_shift, _twelve_hours,
    _birthday,
]  # fmt: skip
