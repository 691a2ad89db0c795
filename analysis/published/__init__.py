"""Figures that were published, as data: each file says in its first lines where from."""

from importlib import resources

import pandas as pd


def published(name: str) -> pd.DataFrame:
    with resources.files(__name__).joinpath(name).open(encoding="utf-8") as file:
        return pd.read_csv(file, comment="#")
