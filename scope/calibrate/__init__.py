"""Statistics of a model that a strategy scores by, made once a model: `python -m scope.calibrate model=smollm2`."""

from scope.calibrate.collect import calibrate
from scope.calibrate.kept import OfModel, keep

__all__ = ["OfModel", "calibrate", "keep"]
