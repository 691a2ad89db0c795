"""Real models without a hub: `python -m scope.models get NAME` makes an ordinary folder of one, once."""
