"""Statistics of a model that a policy works by, made once a model: `python -m scope.calibrate model=smollm2`."""

from scope.calibrate.collect import Calibrated, calibrate
from scope.calibrate.kept import EntropiesOfModel, OfModel, keep

__all__ = ["Calibrated", "EntropiesOfModel", "OfModel", "calibrate", "keep"]
