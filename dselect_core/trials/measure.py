"""What a tuned model is worth on held-out samples: the loss of the responses, and greedy answers.

Losses come from the pass that makes scores (lm/forward.py), on the same response tokens. Greedy answers are those of
transformers' `generate`, one batch of equal prompt lengths' order at a time, to the last turn of each sample; exact
match compares texts without surrounding white space, ROUGE-L is Google's library with stemming.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from dselect_core.corpus.sample import chat_messages, chat_tools, conform_samples, message_text
from dselect_core.lm.chat_template import UnrenderableError
from dselect_core.lm.load import LanguageModel
from dselect_core.lm.packing import Sequence, Tree
from dselect_core.scores.forward_scores import RenderedSample, render

LOSS = {"sample_id": pl.String(), "loss": pl.Float64(), "tokens": pl.Int64()}
"""A row per eval sample; null where the template does not render it, or no response token is left."""

ANSWERS = {"sample_id": pl.String(), "exact_match": pl.Float64(), "rouge_l": pl.Float64(), "answer": pl.String()}

_ANSWERS_AT_A_TIME = 16


def response_losses(lm: LanguageModel, samples: pl.DataFrame) -> pl.DataFrame:
    """LOSS, ascending by id: the mean loss of each sample's response in nats per token, and its tokens."""
    rendered = {each.id: each.rendered for each in render(lm, samples) if isinstance(each, RenderedSample)}
    trees = (
        Tree(Sequence(sample_id, each.ids, each.response))
        for sample_id, each in rendered.items()
        if each.response.any()
    )
    rows = [
        (sequence.name, float(loss), rendered[sequence.name].response_tokens)
        for batch, signals in lm.forward.over(trees, lm.spec.batch_tokens)
        if signals.loss is not None
        for sequence, loss in zip(batch, signals.loss, strict=True)
    ]
    measured = pl.DataFrame(rows, schema=LOSS, orient="row")
    return samples.select("sample_id").join(measured, on="sample_id", how="left").sort("sample_id")


def greedy_answers(lm: LanguageModel, samples: pl.DataFrame, max_tokens: int) -> pl.DataFrame:
    """ANSWERS, ascending by id: the answer to the last turn against the sample's own. max_tokens: of an answer."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    references, prompts = {}, {}
    for sample_id, messages, tools in _conversations(samples):
        prompt = _prompt_ids(lm, messages, tools, max_tokens)
        if prompt is not None:
            prompts[sample_id], references[sample_id] = prompt, message_text(messages[-1])
    rows = []
    for sample_id, answer in _generate(lm, prompts, max_tokens):
        reference = references[sample_id]
        rouge = scorer.score(reference, answer)["rougeL"].fmeasure
        rows.append((sample_id, float(answer.strip() == reference.strip()), rouge, answer))
    measured = pl.DataFrame(rows, schema=ANSWERS, orient="row")
    return samples.select("sample_id").join(measured, on="sample_id", how="left").sort("sample_id")


def _conversations(samples: pl.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]], Any]]:
    for sample_id, messages, tools in conform_samples(samples).select("sample_id", "messages", "tools").iter_rows():
        yield sample_id, chat_messages(messages), chat_tools(tools)


def _prompt_ids(lm: LanguageModel, messages: list[dict[str, Any]], tools: Any, max_tokens: int) -> list[int] | None:
    """The ids in front of the last response; None where they do not fit into the window with an answer."""
    template = lm.renderer.template
    try:
        accepted, tools = template.accepted(messages[:-1], tools)
        text = template.text(accepted, tools, generation_prompt=True)
    except UnrenderableError:
        return None
    ids: list[int] = lm.renderer.pieces.encode([text])[0].tolist()
    return ids if len(ids) + max_tokens <= lm.window else None


def _generate(lm: LanguageModel, prompts: dict[str, list[int]], max_tokens: int) -> Iterator[tuple[str, str]]:
    """(id, answer) for each prompt. Prompts of similar length share a batch, padded on the left."""
    import torch

    tokenizer, model = lm.renderer.tokenizer, lm.forward.model
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    ordered = sorted(prompts, key=lambda sample_id: (len(prompts[sample_id]), sample_id))
    for start in range(0, len(ordered), _ANSWERS_AT_A_TIME):
        names = ordered[start : start + _ANSWERS_AT_A_TIME]
        longest = max(len(prompts[name]) for name in names)
        ids = torch.tensor([[pad] * (longest - len(prompts[name])) + prompts[name] for name in names])
        mask = torch.tensor([[0] * (longest - len(prompts[name])) + [1] * len(prompts[name]) for name in names])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(lm.forward.device),
                attention_mask=mask.to(lm.forward.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=_ends(lm),
            )
        for name, answer in zip(names, out[:, longest:].cpu().tolist(), strict=True):
            yield name, tokenizer.decode(answer, skip_special_tokens=True)


def _ends(lm: LanguageModel) -> list[int]:
    """Ids that end an answer: the tokenizer's and the model's own."""
    config = lm.forward.model.generation_config.eos_token_id
    own = config if isinstance(config, list) else [config]
    return sorted({i for i in (lm.renderer.tokenizer.eos_token_id, *own) if i is not None})
