"""IFD against Superfiltering's and Cherry LLM's formulas, written here; and the strategy against brute force."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dselect_core import api
from dselect_core.corpus.sample import chat_messages
from dselect_core.errors import DselectError
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.render import Renderer
from dselect_core.lm.without_prompt import WithoutPrompt
from dselect_core.scores.ifd import figures
from dselect_core.select.candidate_pool import Pool
from tests.cases import CASES
from tests.chat_templates import FAMILIES
from tests.core.test_render_families import renderer
from tests.tiny import conversation, open_llama, samples_frame, save_llama, sentencepiece_tokenizer

# As Superfiltering writes a row: the instruction, a new line, the output, and nothing else.
SUPERFILTERING = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
PAIRS = [
    ("What is 2 + 2?", "4 it is, of course"),
    ("Name a river.", "The Rhine, from the Alps to the sea."),
    ("Grüße 🙂", "東京 and Köln\n\n  indented"),
    ("Write a long answer. " * 5 + "Now.", "word " * 40 + "end."),
    ("Same prompt", "one answer"),
    ("Same prompt", "another answer, which is longer"),
]
TALK = conversation("Hi", "Hello!", "Sort: b, a", "a, b", "Thanks", "You are welcome, any time.", system="Be brief.")


@pytest.fixture(scope="module")
def superfiltering(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("plain"), template=SUPERFILTERING))


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("chatml")))


def token_losses(lm: LanguageModel, ids: list[int]) -> list[float]:
    """-ln p of each token but the first, one sequence, float64."""
    model = lm.forward.model.double()
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
    finally:
        model.float()
    return [-float(torch.log_softmax(logits[t - 1], 0)[ids[t]]) for t in range(1, len(ids))]


def by_id(pairs: list[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {samples_frame([conversation(*pair)])["sample_id"][0]: pair for pair in pairs}


def test_it_agrees_with_superfiltering_to_1e_4(superfiltering: LanguageModel) -> None:
    """Their two passes: the whole text with the prompt's labels masked, and the output alone, its own first token
    without a loss."""
    pairs = by_id(PAIRS)
    table = api.score(samples_frame([conversation(*pair) for pair in PAIRS]), ["ifd"], superfiltering)["ifd"]
    assert table["ifd"].null_count() == 0
    encode = superfiltering.renderer.tokenizer.encode
    for row in table.iter_rows(named=True):
        prompt, output = pairs[row["sample_id"]]
        start = len(encode(f"{prompt}\n"))
        conditional = token_losses(superfiltering, encode(f"{prompt}\n{output}"))[start - 1 :]
        direct = token_losses(superfiltering, encode(output))
        with_prompt, alone = np.mean(conditional), np.mean(direct)
        assert row["loss_without_prompt"] == pytest.approx(alone, abs=1e-4)
        assert row["ifd"] == pytest.approx(with_prompt / alone, abs=1e-4)
        perplexities = math.exp(with_prompt) / math.exp(alone)
        assert row["ifd_perplexity"] == pytest.approx(perplexities, rel=1e-4)
        assert (row["ifd"] < 1) == (row["ifd_perplexity"] < 1)
        assert row["tokens_without_prompt"] == len(direct)


def test_behind_a_template_both_losses_are_of_the_same_tokens(lm: LanguageModel) -> None:
    """What Cherry LLM leaves in front of the direct answer is the mark that opens it; turns stand alone."""
    conversations = [*(conversation(*pair) for pair in PAIRS), TALK]
    samples = samples_frame(conversations)
    scores = api.score(samples, ["ifd"], lm)
    loss = dict(scores["difficulty"].select("sample_id", "loss").iter_rows())
    tokens = dict(scores["difficulty"].select("sample_id", "response_tokens").iter_rows())
    texts = dict(samples.select("sample_id", "messages").iter_rows())
    encode = lm.renderer.tokenizer.encode
    front = encode("<|bos|><|im_start|>assistant\n")
    for row in scores["ifd"].iter_rows(named=True):
        answers = [m["content"] for m in chat_messages(texts[row["sample_id"]]) if m["role"] == "assistant"]
        direct = [x for text in answers for x in token_losses(lm, front + encode(text))[len(front) - 1 :]]
        assert len(direct) == row["tokens_without_prompt"] == tokens[row["sample_id"]]
        assert row["loss_without_prompt"] == pytest.approx(np.mean(direct), abs=1e-5)
        assert row["ifd"] == pytest.approx(loss[row["sample_id"]] / np.mean(direct), abs=1e-5)


@pytest.mark.parametrize("budget", [1, 50, 100_000])
def test_batches_change_nothing_and_no_other_kind(lm: LanguageModel, budget: int) -> None:
    samples = samples_frame([*(conversation(*pair) for pair in PAIRS), TALK])
    whole = api.score(samples, ["ifd"], lm)
    lm.spec, spec = lm.spec.model_copy(update={"batch_tokens": budget}), lm.spec
    try:
        apart, without = api.score(samples, ["ifd"], lm), api.score(samples, ["difficulty"], lm)
    finally:
        lm.spec = spec
    assert apart["difficulty"].equals(without["difficulty"])  # to the last bit: it is a pass of its own
    for column in ("ifd", "loss_without_prompt"):
        assert (apart["ifd"][column] - whole["ifd"][column]).abs().max() < 1e-5  # type: ignore[operator]


@pytest.mark.parametrize("adds_spaces", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_template_gives_the_same_response_tokens(family: str, adds_spaces: bool) -> None:
    """Those that refuse an answer without a question get an empty question."""
    of = renderer(family, sentencepiece_tokenizer() if adds_spaces else None)
    cutter = WithoutPrompt(of)
    for answer in ("The Rhine, from the Alps.", "<think>\nA river.\n</think>\n\nThe Rhine."):
        try:
            rendered = of.render(conversation("Name a mountain.", answer, "Name a capital.", answer))
        except UnrenderableError:
            continue  # null with its reason, whatever stands in front
        sequences = cutter.sequences(rendered)
        scored = [int(i) for ids, scored in sequences for i in ids[scored]]
        if family == "minicpm":  # it prints nothing in front of an answer, so first tokens have no predecessor
            scored = [int(i) for ids, _ in sequences for i in ids]
        assert scored == rendered.ids[rendered.response].tolist()
        for ids, _ in sequences:
            text = of.pieces.decode(ids)
            assert "mountain" not in text and "capital" not in text


def test_a_tokenizer_that_adds_spaces_has_the_same_tokens_too() -> None:
    of = Renderer(sentencepiece_tokenizer(), 256, "alpaca")
    assert of.pieces.adds_prefix
    rendered = of.render(TALK)
    sequences = WithoutPrompt(of).sequences(rendered)
    assert len(sequences) == 3
    front = of.pieces.encode(["<s>### Response:\n", "Hello!"])[0].tolist()
    for ids, scored in sequences:
        assert ids[~scored].tolist() == front
    assert [int(i) for ids, scored in sequences for i in ids[scored]] == rendered.ids[rendered.response].tolist()


def test_what_has_no_ratio_says_why(superfiltering: LanguageModel) -> None:
    rows = by_id([("Long", "word " * 300), ("One token", "a"), ("Name a river.", "The Rhine.")])
    table = api.score(samples_frame([conversation(*pair) for pair in rows.values()]), ["ifd"], superfiltering)["ifd"]
    reasons = {rows[sample_id][0]: reason for sample_id, reason in table.select("sample_id", "reason").iter_rows()}
    assert reasons == {
        "Long": "longer than the model's window, so that its prompt is cut",
        "One token": "no response token to score without its prompt",
        "Name a river.": None,
    }
    assert table.filter(pl.col("reason").is_not_null())["ifd"].is_null().all()


def test_figures_say_the_share_that_is_dropped_and_whether_length_ranks() -> None:
    table = pl.DataFrame({"ifd": [0.9, 0.8, 0.7, 1.0, None], "tokens_without_prompt": [1, 2, 3, 0, 9]})
    assert figures(table) == {
        "share with ifd of 1 or more": 0.25,
        "rank correlation of ifd with log response tokens": pytest.approx(-1.0),
    }
    assert figures(table.head(1)) == {"share with ifd of 1 or more": 0.0}
    assert figures(table.clear()) == {}


STEP = 2.0**-16
values = st.one_of(
    st.none(),
    st.sampled_from([0.5, 0.9, 1.0, 1.0 - STEP, 1.0 - STEP / 4, 1.0 + STEP / 4, 1.5, math.nan]),
    st.floats(0, 2, width=32),
)


@settings(max_examples=CASES, deadline=None)
@given(st.lists(values, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_highest_below_1_are_taken(ratios: list[float | None], shuffled: Any) -> None:
    ids = [f"{i:02d}" for i in range(len(ratios))]
    rows = list(zip(ids, ratios, strict=True))
    shuffled.shuffle(rows)
    pool = Pool.of(pl.DataFrame(rows, schema={"sample_id": pl.String, "ifd": pl.Float32}, orient="row"))
    steps = {i: round(r / STEP) for i, r in pool.scores.iter_rows() if r is not None and not math.isnan(r)}
    expected = sorted((i for i, step in steps.items() if step < 2**16), key=lambda i: (-steps[i], i))
    reasons = {i: "no ifd" for i in ids if i not in steps}
    reasons |= {i: "no ifd below 1 (its prompt does not help)" for i in steps if i not in expected}
    for budget in range(1, len(ids) + 1):
        if budget > len(expected):
            with pytest.raises(DselectError, match=f"larger than the {len(expected)} of {len(ids)} samples"):
                api.choose(pool, "ifd", budget)
            return
        chosen = api.choose(pool, "ifd", budget)
        assert chosen.order["sample_id"].to_list() == expected[:budget]
        assert chosen.order["gain"].to_list() == [steps[i] * STEP for i in expected[:budget]]
        assert dict(chosen.excluded.iter_rows()) == reasons
