"""Tasks: prompts with their questions, and measures of the text that a model generates."""

from scope.tasks.arithmetic import Arithmetic
from scope.tasks.gsm_symbolic import GSMSymbolic
from scope.tasks.infinitebench import InfiniteBench
from scope.tasks.longgenbench import LongGenBench
from scope.tasks.questions import Questions
from scope.tasks.recall import Recall
from scope.tasks.recall_written import RecallWritten
from scope.tasks.sources import Hub
from scope.tasks.task import Reference, Sample, Task
from scope.tasks.text import Text

__all__ = [
    "Arithmetic",
    "GSMSymbolic",
    "Hub",
    "InfiniteBench",
    "LongGenBench",
    "Questions",
    "Recall",
    "RecallWritten",
    "Reference",
    "Sample",
    "Task",
    "Text",
]
