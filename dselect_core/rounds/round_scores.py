"""The pool's scores under a round's model: which are missing, and their computation.

They lie in the stores of their kinds, under the fingerprint of their provenance, which names what the model was tuned
on. So a row that is new to the pool costs one score a round, and a round whose model was there before costs none.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from dselect_core.fingerprint import fingerprint
from dselect_core.kinds import kind_of
from dselect_core.lm.load import LanguageModel
from dselect_core.pool.corpus_index import Index
from dselect_core.pool.pool_tables import fingerprint_of_pool
from dselect_core.progress import Progress
from dselect_core.rounds.round_model import RoundModel
from dselect_core.scores.forward_scores import forward_kinds, forward_scores
from dselect_core.scores.provenance import provenance_of
from dselect_core.scores.score_work import appender
from dselect_core.scores.update import require_complete, with_reused
from dselect_core.select.candidate_pool import Pool
from dselect_core.select.d3 import D3
from dselect_core.settings.workspace import Workspace
from dselect_core.storage.score_store import COMPACT_MIN_PARTS, Store


@dataclass(frozen=True)
class RoundScores:
    """Scores of what may be chosen, by a round's model: of each kind that d3 reads and a forward pass gives."""

    workspace: Workspace
    index: Index
    model: RoundModel

    @cached_property
    def stores(self) -> dict[str, Store]:
        """{kind: its store}. Nothing is written. Raises DselectError as `fingerprint_of_pool`."""
        names = sorted(D3.needs & forward_kinds(self.workspace.settings))
        return {name: self.workspace.open_store(name, self._fingerprint(name)) for name in names}

    def _fingerprint(self, name: str) -> str:
        if self.model.run is None:  # the target model's scores are those of the pool
            return fingerprint_of_pool(self.workspace, self.index, kind_of(name))
        return fingerprint(provenance_of(self.workspace, kind_of(name), self.model.provenance))

    def missing(self) -> dict[str, pl.DataFrame]:
        """{kind: sample_id without a score of it}, of the kinds that some sample lacks."""
        ids = self.index.candidates.select("sample_id")
        found = {name: store.missing(ids) for name, store in self.stores.items()}
        return {name: rows for name, rows in found.items() if rows.height}

    def missing_rows(self) -> pl.DataFrame:
        """sample_id of the samples that lack some score, ascending."""
        rows = [pl.DataFrame(schema={"sample_id": pl.String}), *self.missing().values()]
        return pl.concat(rows).unique().sort("sample_id")

    def compute(
        self,
        open_model: Callable[[], LanguageModel],
        samples: Callable[[], pl.DataFrame],
        progress: Progress | None = None,
    ) -> int:
        """Score what is missing, and keep it as it comes; returns the tokens. samples: gives SAMPLES of the pool.

        progress: in rows. Raises DselectError where a kind cannot be computed by this model.
        """
        missing, rows = self.missing(), self.missing_rows()
        if rows.is_empty():
            return 0
        lm = open_model()
        before = lm.forward.tokens
        for name in missing:
            provenance = provenance_of(self.workspace, kind_of(name), self.model.provenance)
            self.stores[name].write_provenance(provenance)
        told = with_reused(progress, self.index.candidates.height - rows.height)
        wanted = samples().join(rows, on="sample_id", how="semi", maintain_order="left")
        with ExitStack() as stack:
            appenders = {
                name: stack.enter_context(appender(self.workspace, kind_of(name), self.stores[name]))
                for name in missing
            }
            for batch in forward_scores(lm, wanted, frozenset(missing), self.workspace.settings, told):
                for name, frame in batch.items():
                    appenders[name].add(frame.join(missing[name], on="sample_id", how="semi", maintain_order="left"))
        for name in missing:
            self.stores[name].compact(COMPACT_MIN_PARTS)
        return lm.forward.tokens - before

    def pool(self, base: Pool) -> Pool:
        """`base`, the pool with the target model's scores, with those of this model in their place.

        Lengths in tokens stay: they are the text's. Raises DselectError where a score is not in the store any more.
        """
        if self.model.run is None:
            return base
        candidates, scores, arrays = self.index.candidates, base.scores, dict[str, Any]()
        for name, store in self.stores.items():
            kind = kind_of(name)
            if kind.pool_field is not None:
                vectors = store.read_array(candidates)
                require_complete(store, candidates, vectors.keys)
                values = np.full((len(base), vectors.values.shape[1]), np.nan, np.float32)
                values[scores["sample_id"].search_sorted(vectors.keys["sample_id"]).to_numpy()] = vectors.values
                arrays[kind.pool_field] = values
                continue
            columns = [name for name in kind.pool_columns() if name not in kind.of_text_columns()]
            table = store.read(candidates, columns)
            require_complete(store, candidates, table)
            order = scores.columns
            scores = scores.drop(columns, strict=False)
            scores = scores.join(table, on="sample_id", how="left", maintain_order="left").select(order)
        return replace(base, scores=scores, **arrays)
