"""The built-in demo corpus: seeded, computed, with planted and labelled defects. It needs no network.

It lets the graph be run and tested end to end on rows whose truth is known. It trades realism for truth: tasks are
simple and made from templates, but every answer is computed and every defect is on record. It is not in the wheel.
"""

from demo.corpus.assemble import BuiltinCorpus, Label, LabelName, generate
from demo.corpus.write import HELD_OUT, LABELS, SOURCES, write_corpus

__all__ = ["HELD_OUT", "LABELS", "SOURCES", "BuiltinCorpus", "Label", "LabelName", "generate", "write_corpus"]
