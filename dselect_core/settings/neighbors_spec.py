"""The keys `neighbors` and `near_duplicates` of dselect.yaml: how each sample's nearest other one is searched, and when
two samples are so alike that one of them is not chosen."""

from typing import Literal

from pydantic import Field

from dselect_core.select.judges_spec import GRADES, JudgesField
from dselect_core.select.recipe import StrictModel


class NeighborSpec(StrictModel):
    """How MIWV's shots are searched: exactly, but for pools above a size, where nearly all of them will do.

    The default is the size at which comparing all pairs takes a minute (vectors of 384 numbers, two cores).
    """

    approximate_above: int | None = Field(
        100_000,
        gt=0,
        description="pool rows above which the search is approximate (inverted lists), with its recall measured; null: "
        "never",
    )
    nprobe: int = Field(32, gt=0, description="inverted lists, of 4·√rows, that a sample is compared with")

    def nprobe_for(self, rows: int) -> int | None:
        """What a pool of `rows` is searched with; None: exactly."""
        return None if self.approximate_above is None or rows <= self.approximate_above else self.nprobe


class NearDuplicatesSpec(StrictModel):
    """Of samples that are alike only the best may be chosen; the others stay in the pool, and `why` names the kept one.

    How alike prompts are depends on whose vectors they are (`embeddings`): those of a language model are all alike to
    some degree, and need a higher threshold than those of an encoder.
    """

    threshold: float = Field(0.95, gt=0, le=1, description="cosine of two prompts from which they are alike")
    text: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Jaccard index of five words in a row, estimated by MinHash, from which whole samples are alike "
        "too, e.g. 0.8; null: texts are not compared",
    )
    keep: Literal["best", "first"] = Field(
        "best",
        description="best: of a group the highest grade stays, then the highest upd, then the first id; first: id",
    )

    grade: JudgesField | None = Field(None, description="best: whose grades, of several `graders`, as in a recipe")

    @property
    def reads_grades(self) -> bool:
        """Whether it compares grades, whoever gives them."""
        return self.keep == "best"

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of score that it reads."""
        kinds = frozenset({"prompts"} | ({GRADES, "difficulty"} if self.reads_grades else set()))
        return kinds if self.grade is None else self.grade.of_needs(kinds)
