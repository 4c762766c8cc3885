"""Grades by batches: submits the rows that need one, waits a while, collects what has ended, asks again what failed.

A row is graded by the rules of live grading: the same request, the same reading, one repair, `max_retries` further
tries of a call that may go well the next time; each of these is a further batch. Rows that are in a batch are not asked
again, by whatever run and in whatever mode, until it was collected. What a batch may take at most is reserved in the
ledger before anything is sent (meter.py), so a cap holds; what it took is booked as it is collected.

A batch that fails or is cancelled is not made again by the run that finds it so. One that expires is, for the rows that
were not its turn yet.

Trade-offs: near a cap batches are small, for a reservation is several times what a grade takes; the rest follows as
they end. Before a run's first batch one small question is asked live, so that a refused key, or a parameter that the
endpoint does not take, shows at once and not a day later.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from functools import partial

import polars as pl

from dselect_core.errors import DselectError
from dselect_core.graders.batch.endpoint import BatchEndpoint, MaybeMadeError, RefusedError, State
from dselect_core.graders.batch.requests import Ask, asks_of, book, files_of, request_lines, requests_table
from dselect_core.graders.batch.results import MISSING, Result, read_lines, result_of
from dselect_core.graders.batch.shelf import Batch, Shelf, new_key
from dselect_core.graders.judge_form import Chat, JudgeForm
from dselect_core.graders.judge_reply import Judgement
from dselect_core.graders.judge_request import Dialect
from dselect_core.graders.judge_session import back_off
from dselect_core.graders.meter import open_meter
from dselect_core.graders.openai_grader import learn_dialect
from dselect_core.graders.spend import REFUSED, Ledger, current_purpose
from dselect_core.kinds import NOT_TRIED
from dselect_core.progress import Progress
from dselect_core.settings.grader_spec import GraderSpec
from dselect_core.settings.workspace import Workspace
from dselect_core.stop import raise_if_stopped
from dselect_core.storage.appender import flush_open_appenders

Judged = list[tuple[str, Judgement]]

IN_BATCH = f"{NOT_TRIED}in batch "
"""How the reason of a row begins that is in a batch."""

_log = logging.getLogger(__name__)


def grade_by_batches(
    samples: pl.DataFrame,
    spec: GraderSpec,
    question: str,
    workspace: Workspace,
    keep: Callable[[Judged], None],
    progress: Progress | None = None,
) -> pl.DataFrame:
    """Grade SAMPLES as far as batches bring it; returns those that are to be asked live, none with `mode: batch`.

    question: fingerprint of the grader's provenance. keep: told of (sample_id, judgement), each sample once; also of
    rows of the collected batches that are not among the samples any more.
    Raises DselectError when no row was graded, and the reason is not that batches are under way.
    """
    shelf = Shelf(workspace.batches)
    if spec.mode == "live" and not any(batch.question == question for batch in shelf.batches()):
        return samples
    with BatchEndpoint(spec) as endpoint:
        run = _Run(samples, spec, question, workspace, shelf, endpoint, keep, progress)
        run.run()
        left = run.end()
    return samples.filter(pl.col("sample_id").is_in(left))


class _Run:
    def __init__(
        self,
        samples: pl.DataFrame,
        spec: GraderSpec,
        question: str,
        workspace: Workspace,
        shelf: Shelf,
        endpoint: BatchEndpoint,
        keep: Callable[[Judged], None],
        progress: Progress | None,
    ) -> None:
        self._wanted = dict(samples.select("sample_id", "messages").iter_rows())
        self._spec, self._question, self._shelf, self._endpoint = spec, question, shelf, endpoint
        self._keep, self._progress = keep, progress
        self._ledger = Ledger.of(workspace)
        self._sources = frozenset(workspace.settings.sources)
        self._purpose = current_purpose()
        self._form = JudgeForm.of(spec)
        self._rubric = self._form.prompt.rubric(spec)
        self._begun_at = datetime.now(UTC)
        self._dialect: Dialect | None = None
        self._done: set[str] = set()
        self._judged = 0
        self._again: dict[str, Ask] = {}  # what failed and is to be asked once more
        self._later: dict[str, str] = {}  # {sample: why it is not asked again in this run}
        self._has_room = True  # whether there may be something to submit
        self._capped: str | None = None
        self._problem: str | None = None
        self._broken = False  # whether the endpoint, and not a batch, is the problem
        self._answered: dict[str, int] = {}
        self._ids: dict[str, list[str]] = {}

    def run(self) -> None:
        """Go on until nothing is under way that this run could collect, or it has waited long enough."""
        waits = self._spec.batch.wait_seconds if self._spec.mode == "batch" else 0.0
        deadline = time.monotonic() + waits
        while True:
            with self._shelf.locked():
                self._go_on()
                while self._spec.mode == "batch" and self._has_room and not self._broken:
                    self._go_on()  # what was collected may be to ask once more, and left room under a cap
                waiting = bool(self._own())
            if self._progress is not None:
                done = len(self._done & self._wanted.keys()) + sum(self._answered.values())
                self._progress(min(done, len(self._wanted)), len(self._wanted))
            left = deadline - time.monotonic()
            if not waiting or self._broken or left <= 0:
                return
            _sleep(min(left, self._spec.batch.poll_seconds))

    def _go_on(self) -> None:
        for batch in self._own():
            self._attempt(partial(self._advance, batch))
        if self._spec.mode == "batch":
            self._attempt(self._submit)

    def _attempt(self, step: Callable[[], None]) -> None:
        """Do it; what goes wrong there does not keep other batches from being collected."""
        raise_if_stopped()
        try:
            step()
        except DselectError as error:
            _log.warning("%s", error)
            self._problem, self._broken = str(error), True

    def _own(self) -> list[Batch]:
        """The batches that this run collects: of its source, and of those that are gone from the settings."""
        mine = self._purpose.source
        return [b for b in self._of_question() if b.source == mine or b.source not in self._sources]

    def _of_question(self) -> list[Batch]:
        return [batch for batch in self._shelf.batches() if batch.question == self._question]

    def _in_flight(self) -> dict[str, Batch]:
        """{sample: the batch that it is in}, by whatever run."""
        found: dict[str, Batch] = {}
        for batch in self._of_question():
            if batch.key not in self._ids:
                self._ids[batch.key] = self._shelf.requests(batch, ["sample_id"])["sample_id"].to_list()
            found |= dict.fromkeys(self._ids[batch.key], batch)
        return found

    def _advance(self, batch: Batch) -> None:
        """Take a batch as far as it goes now."""
        if not batch.is_reserved:  # a process was killed before it sent anything
            self._drop(batch)
            self._has_room = True
            return
        made = batch if batch.batch_id is not None else self._make(batch)
        if made is None:
            return
        batch, state = made, self._endpoint.state(made)
        if state.has_ended:
            self._collect(batch, state)
        else:
            self._answered[batch.key] = state.answered or 0

    def _make(self, batch: Batch) -> Batch | None:
        """The batch as the endpoint has it, made by whatever process, but once; None: it is not to be made."""
        if self._spec.mode == "live":  # by now; what was not submitted is asked live
            found = self._endpoint.find(batch) if batch.may_exist else None
            if found is None:
                self._drop(batch)
            return None if found is None else self._shelf.write(batch, batch_id=found.batch_id)
        try:
            if batch.file_id is None:
                data = request_lines(self._shelf.requests(batch))
                batch = self._shelf.write(batch, file_id=self._endpoint.upload(batch, data))
        except RefusedError:
            self._drop(batch)
            raise
        state = self._endpoint.find(batch) if batch.may_exist else None
        tries = 0
        while state is None:
            batch = self._shelf.write(batch, may_exist=True)
            try:
                state = self._endpoint.create(batch)
            except RefusedError:
                self._drop(batch)
                raise
            except MaybeMadeError:
                _sleep(back_off(tries))
                state = self._endpoint.find(batch)
                if state is None and tries == self._spec.max_retries:
                    raise
                tries += 1
        _log.info("grader: batch %s of %d rows is submitted", state.batch_id, batch.rows)
        return self._shelf.write(batch, batch_id=state.batch_id)

    def _drop(self, batch: Batch) -> None:
        """Forget a batch of which nothing was made, and free what was reserved for it."""
        if batch.is_reserved or self._ledger.has(batch.begun_at, batch.key):
            book(self._ledger, batch, self._shelf.requests(batch), [(None, None, REFUSED)] * batch.rows)
        self._shelf.remove(batch)

    def _submit(self) -> None:
        """Put what is to be asked into batches, as far as the caps allow."""
        if not self._has_room:
            return
        self._has_room, self._capped = False, None
        taken = self._in_flight().keys() | self._done | self._later.keys() | self._again.keys()
        fresh = [sample_id for sample_id in self._wanted if sample_id not in taken]
        if not fresh and not self._again:
            return
        if self._dialect is None:
            with open_meter(self._spec.live, self._ledger) as meter:
                self._dialect = learn_dialect(self._spec.live, meter)
        chat = self._form.prompt.chat
        asks: list[Iterable[Ask]] = [
            list(self._again.values()),
            (Ask(sample_id, chat(sample_id, self._wanted[sample_id], self._rubric)) for sample_id in fresh),
        ]
        limits = self._spec.batch
        most_bytes = int(limits.megabytes * 1e6)
        todo = (ask for each in asks for ask in each)
        for group, bodies, too_large in files_of(todo, self._body, limits.rows, most_bytes):
            raise_if_stopped()
            error = f"its request is larger than a batch may be ({limits.megabytes:g} MB, batch.megabytes)"
            self._finish([(ask.sample_id, ask.first or Judgement(error=error)) for ask in too_large])
            with open_meter(self._spec, self._ledger) as meter:
                count, self._capped = meter.fitting((ask.chat for ask in group), self._spec.max_tokens)
                batch = self._reserve(group[:count], bodies[:count]) if count else None
            for ask in [*group[:count], *too_large]:
                self._again.pop(ask.sample_id, None)
            if batch is not None:
                self._advance(batch)
            if self._capped is not None:
                return

    def _body(self, chat: Chat) -> dict[str, object]:
        assert self._dialect is not None
        return {"model": self._spec.model, "messages": chat, **self._dialect.options(self._spec, self._form.schema)}

    def _reserve(self, asks: list[Ask], bodies: list[str]) -> Batch:
        """A batch of these rows, on record and in the ledger, of which nothing was sent yet."""
        requests, price, most = requests_table(asks, bodies), self._spec.price, self._spec.max_tokens
        tokens = int(requests["most_prompt_tokens"].sum())
        batch = Batch(
            key=new_key(),
            question=self._question,
            source=self._purpose.source,
            run=self._purpose.run,
            model=self._spec.model or "",
            address=self._endpoint.address,
            begun_at=datetime.now(UTC),
            rows=len(asks),
            max_tokens=most,
            usd_prompt=None if price is None else price.prompt,
            usd_completion=None if price is None else price.completion,
            usd=None if price is None else price.usd(tokens, most * len(asks)),
            judge=self._spec.name,
        )
        self._shelf.add(batch, requests)
        book(self._ledger, batch, requests, None)
        return self._shelf.write(batch, is_reserved=True)

    def _collect(self, batch: Batch, state: State) -> None:
        """Keep what an ended batch brought, book it, and see what is to be asked once more."""
        requests = self._shelf.requests(batch)
        asks = list(asks_of(requests))
        if state.status == "failed":
            self._fail(batch, state, asks)
            return
        ids = [each for each in (state.output_file_id, state.error_file_id) if each is not None]
        lines = read_lines([self._endpoint.content(each) for each in ids], requests["custom_id"].to_list())
        results = [
            result_of(lines[ask.custom_id], self._spec, self._form, self._endpoint.address)
            if ask.custom_id in lines
            else MISSING
            for ask in asks
        ]
        answered = sum(isinstance(result.outcome, Judgement) for result in results)
        self._judged += answered
        # What failed may be the rows' own where the endpoint answers others, or another question.
        works = answered > 0 or self._works()
        again, final = dict[str, Ask](), Judged()
        for ask, result in zip(asks, results, strict=True):
            came = self._what_of(ask, result, batch, state, works=works, some_answered=answered > 0)
            if isinstance(came, Judgement):
                final.append((ask.sample_id, came))
            elif isinstance(came, Ask):
                again[ask.sample_id] = came
            else:
                self._later[ask.sample_id] = came
        book(self._ledger, batch, requests, [(*result.tokens, result.billed) for result in results])
        self._finish(final)
        self._shelf.remove(batch)
        self._again |= {sample_id: ask for sample_id, ask in again.items() if sample_id in self._wanted}
        self._has_room = True
        self._answered.pop(batch.key, None)
        if state.status != "completed":
            _log.warning("grader: batch %s %s: %d of %d rows answered", batch.name, state.status, answered, batch.rows)

    def _fail(self, batch: Batch, state: State, asks: Collection[Ask]) -> None:
        why = "; ".join(state.errors) or "it does not say why"
        remedy = (
            "Wait until other batches have ended, or set grader.batch.rows lower, and run again."
            if "token_limit" in why
            else "Mend that and run again, or set `grader.mode: live`."
        )
        self._problem = f"grader: batch {batch.name} failed before any row was asked ({why}). {remedy}"
        _log.warning("%s", self._problem)
        self._later |= {ask.sample_id: f"batch {batch.name} failed: {why}" for ask in asks}
        self._drop(batch)
        self._answered.pop(batch.key, None)
        self._has_room = True

    def _what_of(
        self, ask: Ask, result: Result, batch: Batch, state: State, *, works: bool, some_answered: bool
    ) -> Judgement | Ask | str:
        """The row's judgement, the ask that comes next, or why it is not asked again in this run."""
        outcome = result.outcome
        if isinstance(outcome, Judgement):
            if ask.first is not None:
                return outcome.after(ask.first)
            repair = None if outcome.error is None else self._form.repair(ask.chat, result.body, outcome.error)
            return outcome if repair is None else Ask(ask.sample_id, repair, ask.number + 1, first=outcome)
        if ask.first is not None:
            return ask.first
        # A batch that this run made and that brought nothing would bring nothing again.
        may_go_well = some_answered or batch.begun_at < self._begun_at
        if outcome is None:
            again = state.status == "expired" and may_go_well
            return ask.again(ask.tries) if again else f"batch {batch.name} {state.status} before this row was answered"
        if outcome.too_many:
            return ask.again(ask.tries) if may_go_well else outcome.error
        if outcome.for_all and not works:
            self._problem = outcome.remedy
        if outcome.again and works and ask.tries < self._spec.max_retries:
            return ask.again(ask.tries + 1)
        return Judgement(error=outcome.error) if works and outcome.may_be_the_row else outcome.error

    def _works(self) -> bool:
        """Whether the endpoint answers a small question."""
        try:
            with open_meter(self._spec.live, self._ledger) as meter:
                learn_dialect(self._spec.live, meter)
        except DselectError as error:
            self._problem = str(error)
            return False
        return True

    def _finish(self, judged: Judged) -> None:
        """Keep judgements; they are on the disk when this returns."""
        if judged:
            self._keep(judged)
            flush_open_appenders()
            self._done |= {sample_id for sample_id, _ in judged}

    def end(self) -> set[str]:
        """Tell of the rows without a judgement why they have none yet; returns those that are to be asked live."""
        in_flight = self._in_flight()
        missing = [sample_id for sample_id in self._wanted if sample_id not in self._done]
        why = self._problem or (f"grader: {self._capped}." if self._capped is not None else None)
        is_live = self._spec.mode == "live"
        is_under_way = any(sample_id in in_flight for sample_id in missing)
        if why is not None and not self._judged and not is_live and (self._broken or not is_under_way):
            raise DselectError(why)
        told, left = Judged(), set[str]()
        for sample_id in missing:
            ask = self._again.get(sample_id)
            if (batch := in_flight.get(sample_id)) is not None:
                told.append((sample_id, Judgement(error=f"{IN_BATCH}{batch.name} since {batch.since}")))
            elif is_live:
                left.add(sample_id)
            elif ask is not None and ask.first is not None:
                told.append((sample_id, ask.first))
            else:
                reason = self._later.get(sample_id) or why or "not asked"
                told.append((sample_id, Judgement(error=f"{NOT_TRIED}{reason}")))
        if told:
            self._keep(told)
        return left


def _sleep(seconds: float) -> None:
    """Raises Stopped when somebody asks to stop meanwhile."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        raise_if_stopped()
        time.sleep(min(left, 0.1))
    raise_if_stopped()
