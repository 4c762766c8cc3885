"""Tasks of lm-evaluation-harness: which definition a name stands for, and what a model scores on it, row by row.

A task is known by its definition: its YAML with all that this includes, the code and the local data files that it
names, those of a group's tasks, and the version of the package. So an edited task is measured again, and no other one
is. Finding tasks reads no data set. Trade-offs: a data set of the hub counts as its name, for its rows are not at hand;
a group's figure is the mean over all rows of its tasks, whatever weights the group gives them; tasks that run code that
a model wrote are refused, as the package does by default.
"""

import contextlib
import difflib
import io
import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dselect_core.errors import DselectError, first_line
from dselect_core.fingerprint import digest, fingerprint
from dselect_core.lm.load import LanguageModel
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.stop import raise_if_stopped

TASK_MARKS = {
    "task": pl.String(),
    "metric": pl.String(),
    "row": pl.Int64(),
    "value": pl.Float64(),
    "higher_is_better": pl.Boolean(),
}
"""A row for each row of a task and metric. task: one of the group's, or the task itself; metric: `acc`, or with the
filter of the answer `exact_match,strict-match`. row: null where the metric is one figure of all rows (BLEU); value:
null where the task has none for this row; higher_is_better: null where the task does not say."""

_SEED = 1234  # the package's own, of the examples in front of a question and of sampled answers
_ROWS_AT_A_TIME = 32
_DATA_KEYS = ("dataset_path", "dataset_kwargs")


@dataclass(frozen=True)
class Task:
    """A task or group by name. definition: hash of all that it consists of."""

    name: str
    definition: str


class TaskError(DselectError):
    """A task of the settings that cannot be measured. The message names it and the remedy."""


def find_tasks(trials: TrialsSpec) -> list[Task]:
    """The tasks of the settings, each once, as they are defined now.

    Raises TaskError for a name that is no task and for a folder of tasks that is not there.
    """
    names = list(dict.fromkeys(trials.tasks))
    if not names:
        return []
    index = _manager(names, trials.task_path).task_index
    for name in names:
        if name not in index:
            nearest = difflib.get_close_matches(name, index, n=1)
            hint = f"did you mean `{nearest[0]}`? " if nearest else ""
            raise TaskError(
                f"trials.tasks: lm-evaluation-harness {version('lm_eval')} has no task `{name}`; {hint}"
                "`lm_eval ls tasks` lists them, and `task_path` names a folder with tasks of your own"
            )
    return [Task(name, fingerprint([version("lm_eval"), _definition(name, index, ())])) for name in names]


def tasks_version(trials: TrialsSpec) -> list[str | None]:
    """What moves the marks of tasks beside the settings: the package, and the files in the folder of tasks.

    Imports nothing. Data files that lie elsewhere are not among them: they are seen by what asks `find_tasks`.
    """
    return [version("lm_eval"), _files_version(trials.task_path)]


def measure_task(lm: LanguageModel, task: str, trials: TrialsSpec) -> tuple[pl.DataFrame, int]:
    """(TASK_MARKS of one task or group, tokens that it took). Answers are greedy unless the task samples.

    Raises TaskError where the package cannot run it with this model.
    """
    from lm_eval.evaluator import evaluate

    from dselect_core.lm.tuning_state import as_it_was

    counted = 0

    def count(_: Any, positional: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        nonlocal counted
        raise_if_stopped()  # nothing is written before a task is whole
        ids = positional[0] if positional else named.get("input_ids")
        counted += 0 if ids is None else int(ids.numel())

    model = lm.forward.model
    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with _quiet(), as_it_was(model, _SEED):
            random.seed(_SEED)
            np.random.seed(_SEED)
            loaded = _manager([task], trials.task_path).load([task])
            for each in loaded["tasks"].values():
                _set_shots(each, trials.num_fewshot)
            results = evaluate(
                lm=_harness(lm),
                task_dict=loaded,
                limit=trials.task_limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=trials.apply_chat_template,
                fewshot_as_multiturn=trials.apply_chat_template,
            )
            return pl.DataFrame(_rows(results, loaded["tasks"]), schema=TASK_MARKS, orient="row"), counted
    except Exception as error:  # whatever the code of thousands of tasks raises
        raise TaskError(
            f"trials.tasks: lm-evaluation-harness cannot run `{task}` here: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        hook.remove()


def _rows(results: Mapping[str, Any], tasks: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of TASK_MARKS. A metric that is no mean over rows has one, its figure of all rows."""
    for name, samples in results["samples"].items():
        aggregation = tasks[name].aggregation()
        higher_is_better = results["higher_is_better"].get(name) or {}
        for key, of_all in results["results"][name].items():
            metric, comma, answer_filter = key.rpartition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            shown = metric if answer_filter == "none" else key
            better = higher_is_better.get(metric)
            of_filter = [sample for sample in samples if sample["filter"] == answer_filter]
            values = [(sample["doc_id"], sample.get(metric)) for sample in of_filter]
            is_mean = getattr(aggregation.get(metric), "__name__", "mean") == "mean"
            if is_mean and all(value is None or _number(value) is not None for _, value in values):
                for row, value in values:
                    yield name, shown, row, _number(value), better
            else:
                yield name, shown, None, _number(of_all), better


def _number(value: Any) -> float | None:
    """The value as a float; None where it is none, or not a number."""
    if isinstance(value, str):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """As the package's own command does: a task that sets 0 keeps it, for its questions have examples of their own."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config("num_fewshot", num_fewshot or 0)
    task.set_fewshot_seed(_SEED)


def _harness(lm: LanguageModel) -> Any:
    """The model as the package wants it, with the chat form that it is tuned in and without progress bars."""
    import copy

    from lm_eval.models.huggingface import HFLM

    class Harness(HFLM):  # type: ignore[misc]
        def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
            template = lm.renderer.template
            if not add_generation_prompt:  # an answer is begun for the model, as text
                *chat_history, begun = chat_history
            messages, _ = template.accepted(chat_history)
            text = template.text(messages, generation_prompt=True)
            return text if add_generation_prompt else text + str(begun["content"])

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

    return Harness(
        pretrained=lm.forward.model,
        tokenizer=copy.deepcopy(lm.renderer.tokenizer),  # it is given a padding token where it has none
        max_length=lm.window,
        batch_size=max(1, min(_ROWS_AT_A_TIME, lm.spec.batch_tokens // lm.window)),
        backend="causal",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the package's bars and hints out of what a person reads: errors are raised, and nothing else is needed."""
    import datasets

    log = logging.getLogger("lm_eval")
    before, had_bars = log.level, not datasets.are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        # The bar of building requests has no switch.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
        if had_bars:
            datasets.enable_progress_bars()


def _manager(names: list[str], folder: str | None) -> Any:
    """The package's index of tasks. That of 14,000 tasks takes seconds: where the folder has all names, it alone."""
    if folder is not None and not Path(folder).is_dir():
        raise TaskError(f"trials.task_path: {folder}: no such folder")
    stamp = _files_version(folder)
    if folder is not None:
        own = _indexed(folder, stamp, include_defaults=False)
        if _are_whole(names, own.task_index):
            return own
    return _indexed(folder, stamp, include_defaults=True)


@lru_cache(maxsize=2)
def _indexed(folder: str | None, stamp: str | None, *, include_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=include_defaults)


def _are_whole(names: list[str], index: Mapping[str, Any]) -> bool:
    """Whether the index has the tasks and groups, and all that these name. A tag may have tasks elsewhere too."""
    return all(
        name in index and index[name].cfg is not None and _are_whole(_children(index[name]), index) for name in names
    )


def _definition(name: str, index: Mapping[str, Any], above: tuple[str, ...]) -> Any:
    """A JSON value that changes with whatever a task or group consists of. above: the groups that led here."""
    config, above = index[name].cfg or {}, (*above, name)
    return [
        {key: _content(value, is_data=key in _DATA_KEYS) for key, value in config.items()},
        [_definition(child, index, above) for child in _children(index[name]) if child in index and child not in above],
    ]


def _children(entry: Any) -> list[str]:
    """The names that a group lists, and those of the tasks that name a tag, which has no YAML."""
    if entry.cfg is None:
        return sorted(entry.tags)
    return list(_names(entry.cfg.get("task"))) if "group" in entry.cfg else []


def _names(listed: Any) -> Iterator[str]:
    """The names in what a group lists: names, tasks with other settings, and groups inside it."""
    if isinstance(listed, list):
        for each in listed:
            yield from _names(each)
    elif isinstance(listed, dict):
        yield from _names(listed.get("task"))
    elif isinstance(listed, str):
        yield listed


def _content(value: Any, *, is_data: bool) -> Any:
    """The value with the content of files in place of their paths."""
    if isinstance(value, dict):
        known = {key: inner for key, inner in value.items() if not (is_data and key == "cache_dir")}
        return {str(key): _content(inner, is_data=is_data) for key, inner in known.items()}
    if isinstance(value, list | tuple):
        return [_content(inner, is_data=is_data) for inner in value]
    if not isinstance(value, str):
        return value if value is None or isinstance(value, bool | int | float) else str(value)
    path = Path(value)
    with contextlib.suppress(OSError, ValueError):  # a text that is no path
        if path.is_absolute():
            code = path.parent / f"{path.name.rpartition('.')[0].replace('.', '/')}.py"
            if code.is_file():  # `!function utils.process_docs`
                return ["code", path.name, digest([code.read_bytes()])]
        if is_data and path.is_file():
            return ["data", path.name, digest([path.read_bytes()])]
        if is_data and path.is_dir() and path.is_absolute():
            return ["data", path.name, _folder_hash(path)]
    return value


def _files_version(folder: str | None) -> str | None:
    return None if folder is None or not Path(folder).is_dir() else _folder_hash(Path(folder))


def _folder_hash(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest(part for path in paths for part in (path.relative_to(folder).as_posix(), path.read_bytes()))
