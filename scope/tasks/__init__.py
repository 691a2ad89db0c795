"""Tasks: prompts with their questions, and measures of the text that a model generates."""

from scope.tasks.arithmetic import Arithmetic
from scope.tasks.infinitebench import InfiniteBench
from scope.tasks.longgenbench import LongGenBench
from scope.tasks.questions import Questions
from scope.tasks.sources import Hub
from scope.tasks.task import Sample, Task

__all__ = ["Arithmetic", "Hub", "InfiniteBench", "LongGenBench", "Questions", "Sample", "Task"]
