"""Where everything lies under the storage: one place that knows the layout.

raw/<source>/samples.parquet, quarantine.parquet
models/<name>/ and models/current.json          the model in force; models/provenance/: of every model opened
scores/<kind>/<fingerprint>/…                   the store: every score ever made, by sample and provenance
scores/<kind>/<source>.json                     the source's head: what of the store stands for the source now;
                                                scores/grades@<judge>/… where the settings name several
corpus/index.parquet, neighbors.parquet         the pool, and each sample's shot
corpus/near_duplicates.parquet                  what is not chosen for it is alike to a sample that is kept
corpus/text_signatures.parquet                  of the samples, by which near-duplicates of their texts are found
corpus/<kind>.parquet                           scores that are made over the pool (miwv, grades of candidates)
specs/<recipe>.json
orders/<key>.parquet                            saved orders with their state
coresets/<recipe>/manifest.json, versions/…    its versions, and the pointer to one (coreset/published.py)
rounds/runs/<run>/…                             models tuned for d3's rounds (runs/run_store.py)
rounds/records/<recipe>/<round>.parquet         what a round saw, and whom it chose (rounds/round_record.py)
spend/<year>-<month>/…                          every call to a paid judge, and what it cost (graders/spend.py)
batches/<batch>.json, <batch>.parquet           batches of grades that are not collected yet (graders/batch/shelf.py)
trials/runs/<run>/…, trials/marks/<run>/…       what was tuned, and what was measured of it (trials/mark_store.py)
trials/results/<recipe>.json                    the trial of a recipe
corpus/score_distributions.json                 the pool's scores, now and before (lineage/score_drift.py)
reports/coresets/<recipe>.html, reports/refreshes/, reports/index.html   pages for people (reports/write_reports.py)
"""

from dataclasses import dataclass

from upath import UPath

from dselect_core.kinds import kind_of
from dselect_core.settings.settings import Settings
from dselect_core.storage.score_store import Store


@dataclass(frozen=True)
class Workspace:
    """Settings and the places of tables. Equal settings give equal places."""

    settings: Settings

    @property
    def root(self) -> UPath:
        """The storage: a folder or an object-store prefix."""
        root: UPath = UPath(self.settings.storage, **self.settings.storage_options)
        return root

    def of_source(self, source: str) -> "Workspace":
        """The same places, with the settings as they are in force for the rows of one source."""
        return Workspace(self.settings.of_source(source))

    def samples(self, source: str) -> UPath:
        """Samples of a source."""
        return self.root / "raw" / source / "samples.parquet"

    def quarantine(self, source: str) -> UPath:
        """Rows of a source that cannot be used."""
        return self.root / "raw" / source / "quarantine.parquet"

    def kind_folder(self, kind: str) -> UPath:
        """Where the stores of a kind of score lie, one a fingerprint; those of all judges together."""
        return self.root / "scores" / kind_of(kind).stored_as

    def open_store(self, kind: str, fingerprint: str) -> Store:
        """The store of a kind of score under a provenance with that fingerprint."""
        of_kind = kind_of(kind)
        return Store(self.kind_folder(kind) / fingerprint, of_kind.keys, of_kind.retry(self.settings), of_kind.array)

    def head(self, kind: str, source: str) -> UPath:
        """What of the store is the source's now."""
        return self.root / "scores" / kind / f"{source}.json"

    @property
    def spend(self) -> UPath:
        """The ledger of what paid judges cost."""
        return self.root / "spend"

    @property
    def batches(self) -> UPath:
        """Batches that paid judges were given, and that are not collected yet."""
        return self.root / "batches"

    @property
    def models(self) -> UPath:
        """Models made here, and the record of the target model."""
        return self.root / "models"

    @property
    def index(self) -> UPath:
        """The corpus index."""
        return self.root / "corpus" / "index.parquet"

    @property
    def neighbors(self) -> UPath:
        """Each pooled sample's shot."""
        return self.root / "corpus" / "neighbors.parquet"

    @property
    def near_duplicates(self) -> UPath:
        """The samples that are alike to a sample that is kept."""
        return self.root / "corpus" / "near_duplicates.parquet"

    @property
    def text_signatures(self) -> UPath:
        """MinHash signatures of the pool's samples."""
        return self.root / "corpus" / "text_signatures.parquet"

    def pool_table(self, kind: str) -> UPath:
        """The table of a kind of score that is made over the pool."""
        return self.root / "corpus" / f"{kind}.parquet"

    def spec(self, recipe: str) -> UPath:
        """A recipe as it was recorded."""
        return self.root / "specs" / f"{recipe}.json"

    @property
    def orders(self) -> UPath:
        """Saved orders."""
        return self.root / "orders"

    def coreset(self, recipe: str) -> UPath:
        """Files of a coreset."""
        return self.root / "coresets" / recipe

    @property
    def rounds(self) -> UPath:
        """Models that were tuned for rounds, and the rounds' records."""
        return self.root / "rounds"

    def round_record(self, recipe: str, number: int) -> UPath:
        """What a round of a recipe saw, and whom it chose."""
        return self.rounds / "records" / recipe / f"{number}.parquet"

    @property
    def trials(self) -> UPath:
        """Runs, marks and results of trials."""
        return self.root / "trials"

    def trial(self, recipe: str) -> UPath:
        """The result of a recipe's trial."""
        return self.trials / "results" / f"{recipe}.json"

    @property
    def score_distributions(self) -> UPath:
        """How the pool's scores are distributed, and were before."""
        return self.root / "corpus" / "score_distributions.json"

    @property
    def reports(self) -> UPath:
        """Pages for people."""
        return self.root / "reports"

    @property
    def refresh_reports(self) -> UPath:
        """Pages of refreshes."""
        return self.reports / "refreshes"

    def report(self, recipe: str) -> UPath:
        """The page of a recipe's coreset."""
        return self.reports / "coresets" / f"{recipe}.html"
