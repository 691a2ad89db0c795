"""Tasks: prompts to answer and how the answers are scored."""

from scope.tasks.arithmetic import Arithmetic
from scope.tasks.task import Sample, Task

__all__ = ["Arithmetic", "Sample", "Task"]
