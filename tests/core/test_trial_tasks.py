"""Tasks of lm-evaluation-harness: what a model scores, held to its probabilities; and what a task's name stands for."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from dselect_core.errors import DselectError
from dselect_core.lm.load import LanguageModel
from dselect_core.settings.settings import load_settings
from dselect_core.settings.trials_spec import TrialsSpec
from dselect_core.stop import Stopped, forget_request, request_stop
from dselect_core.trials import draws
from dselect_core.trials.compare_sets import MarkedSet, task_table
from dselect_core.trials.lm_eval_tasks import TASK_MARKS, TaskError, find_tasks, measure_task
from dselect_core.trials.task_results import task_results
from tests.tiny import open_llama, save_llama

needs_lm_eval = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason='lm-evaluation-harness is not installed: pip install -e ".[lm-eval]"'
)
ROWS = [
    {"question": f"Say {word}", "choices": [word, word[::-1], f"{word} {word}"], "gold": n % 3}
    for n, word in enumerate(["iron", "river", "four", "metal", "sort", "Loire", "line"])
]


def write_task(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS, **changed: Any) -> None:
    """A task of one's own: `<name>.yaml` and `<name>.jsonl` in the folder. JSON is YAML."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder.parent / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config | changed))


def written(folder: Path) -> dict[str, Any]:
    """Changes that make a task one of written answers, scored by exact match and by BLEU, a figure of all rows."""
    (folder / "utils.py").write_text("def target(row):\n    return row['choices'][row['gold']]\n")
    return {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
        "metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}],
    }


def spec(folder: Path, *names: str, **changed: Any) -> TrialsSpec:
    return TrialsSpec(tasks=list(names), task_path=str(folder), **changed)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_llama(save_llama(tmp_path_factory.mktemp("model")))


def log_probability(lm: LanguageModel, prompt: str, answer: str) -> float:
    tokenizer = lm.renderer.tokenizer
    start = len(tokenizer.encode(prompt, add_special_tokens=False))
    ids = torch.tensor([tokenizer.encode(prompt + answer, add_special_tokens=False)])
    with torch.inference_mode():
        of_tokens = lm.forward.model(ids).logits[0].log_softmax(-1)
    return sum(float(of_tokens[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


@needs_lm_eval
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("limit", [None, 4])
def test_a_row_is_right_where_its_answer_is_the_most_probable(
    lm: LanguageModel, tmp_path: Path, chat: bool, limit: int | None
) -> None:
    write_task(tmp_path / "tasks", "words")
    asked = spec(tmp_path / "tasks", "words", apply_chat_template=chat, task_limit=limit)
    marks, tokens = measure_task(lm, "words", asked)
    expected = []
    for row in ROWS[:limit]:
        question = row["question"]
        prompt = lm.renderer.template.text([{"role": "user", "content": question}], generation_prompt=True)
        answers = [log_probability(lm, prompt if chat else question, ("" if chat else " ") + a) for a in row["choices"]]
        expected.append(float(np.argmax(answers) == row["gold"]))
    assert limit is not None or 0 < sum(expected) < len(expected)
    assert marks["value"].to_list() == expected
    assert marks["row"].to_list() == list(range(len(expected)))
    assert set(marks["metric"]) == {"acc"} and marks["higher_is_better"].all()
    assert tokens > 0


@needs_lm_eval
def test_a_group_has_the_rows_of_its_tasks_and_a_figure_of_all_rows_has_none(lm: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_task(folder, "words")
    write_task(folder, "answers", **written(folder))
    (folder / "both.yaml").write_text(json.dumps({"group": "both", "task": ["words", "answers"]}))
    before = torch.random.get_rng_state()
    marks, _ = measure_task(lm, "both", spec(folder, "both"))
    assert torch.equal(torch.random.get_rng_state(), before)
    rows = marks.group_by("task", "metric").agg(pl.col("row").sort())
    found = {(task, metric): row for task, metric, row in rows.iter_rows()}
    everything = list(range(len(ROWS)))
    assert found == {("words", "acc"): everything, ("answers", "exact_match"): everything, ("answers", "bleu"): [None]}
    again, _ = measure_task(lm, "both", spec(folder, "both"))
    assert again.equals(marks)
    request_stop()
    try:
        with pytest.raises(Stopped):
            measure_task(lm, "both", spec(folder, "both"))
    finally:
        forget_request()


@needs_lm_eval
def test_an_edited_task_is_another_and_the_others_stay(lm: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_task(folder, "words")
    write_task(folder, "answers", **written(folder))
    (folder / "coded.yaml").write_text("include: answers.yaml\ntask: coded\ndoc_to_target: !function utils.target\n")
    (folder / "both.yaml").write_text(json.dumps({"group": "both", "task": ["words", {"task": "coded"}]}))
    names = ("words", "answers", "coded", "both")

    def definitions() -> dict[str, str]:
        return {task.name: task.definition for task in find_tasks(spec(folder, *names))}

    def moved() -> set[str]:
        return {name for name, definition in definitions().items() if definition != before[name]}

    before = definitions()
    assert len(set(before.values())) == 4
    measure_task(lm, "both", spec(folder, "both"))
    assert moved() == set()
    (folder / "utils.py").write_text("def target(row):\n    return 'iron'\n")
    assert moved() == {"coded", "both"}
    before = definitions()
    write_task(folder, "words", ROWS[1:])
    assert moved() == {"words", "both"}
    before = definitions()
    write_task(folder, "answers", **written(folder), description="Answer in one word.")
    assert moved() == {"answers", "coded", "both"}  # utils.py is as it was first, and the YAML is included
    before = definitions()
    write_task(folder, "new")
    assert moved() == set()
    moved_folder = folder.rename(tmp_path / "elsewhere")
    for path in moved_folder.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(folder), str(moved_folder)))
    assert [task.definition for task in find_tasks(spec(moved_folder, *names))] == list(before.values())


@needs_lm_eval
def test_a_task_that_is_not_there_or_cannot_run_is_named(lm: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_task(folder, "words", dataset_kwargs={"data_files": {"test": str(tmp_path / "gone.jsonl")}})
    with pytest.raises(TaskError, match=r"cannot run `words` here: FileNotFoundError"):
        measure_task(lm, "words", spec(folder, "words"))
    with pytest.raises(TaskError, match=r"no task `arc_esy`; did you mean `arc_easy`\?"):
        find_tasks(spec(folder, "words", "arc_esy"))
    with pytest.raises(TaskError, match="no such folder"):
        find_tasks(spec(tmp_path / "nowhere", "words"))


def test_without_the_package_the_settings_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "dselect.yaml"
    settings.write_text("sources: {a: {path: a.json}}\ncoresets: {}\ntrials: {tasks: [gsm8k]}\n")
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as Python knows a package that is not there
    with pytest.raises(DselectError, match=r'trials\.tasks: .* not installed: pip install "dselect\[lm-eval\]"'):
        load_settings(settings)


def marks(*rows: tuple[str, str, int | None, float | None, bool | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TASK_MARKS, orient="row")


def test_rows_that_some_run_lacks_do_not_count_and_a_metric_without_a_direction_has_no_difference() -> None:
    def run(first: float, second: float | None, figure: float) -> pl.DataFrame:
        return marks(
            ("t", "acc", 0, first, True),
            ("t", "acc", 1, second, True),
            ("t", "acc", 2, 1.0, True),
            ("t", "ppl", None, figure, False),
            ("t", "odd", 0, figure, None),
            ("t", "none", 0, None, True),
        )

    frames = {
        draws.CORESET: [run(1.0, 1.0, 2.0), run(1.0, 0.0, 4.0)],
        draws.RANDOM: [run(0.0, None, 5.0), run(1.0, 1.0, 6.0), run(0.0, 0.0, 7.0)],
    }
    results = task_results("task", frames)
    assert [(each.metric, each.higher_is_better) for each in results] == [("acc", True), ("ppl", False), ("odd", None)]
    assert results[0].marks[draws.CORESET].values["task"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert results[0].marks[draws.RANDOM].values["task"].tolist() == [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]]
    sets = {name: MarkedSet(name, [5], [9], {}) for name in frames}
    table = {(row["metric"], row["set"]): row for row in task_table(sets, results)}
    assert table["acc", draws.RANDOM]["better_by"] == pytest.approx(1 - (0.5 + 1 + 0.5) / 3)
    perplexity = table["ppl", draws.RANDOM]
    assert perplexity["better_by"] == pytest.approx(6 - 3)  # lower is better
    # Student's t with 2 degrees of freedom on the spread of single draws; there are no rows to draw again.
    assert perplexity["high"] - perplexity["better_by"] == pytest.approx(4.302653 * (1 + 1 / 3) ** 0.5)
    assert table["odd", draws.RANDOM]["mean"] == 6 and table["odd", draws.RANDOM]["better_by"] is None
    assert table["acc", draws.CORESET]["better_by"] is None
