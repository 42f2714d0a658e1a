"""Searches of a study's runs: every candidate, and whether arms had equally many."""

import pandas as pd

from lib.config.strict_yaml import read_yaml
from lib.report.tables import read_table


def read_tries(runs: pd.DataFrame) -> pd.DataFrame:
    """Every candidate of the runs' searches: `arm seed`, their values, scores and cost.

    A candidate that names no learning rate has that of its arm's file.
    """
    table = read_table(runs, "search.csv")
    if "learning_rate" in table:
        folders = runs.set_index(["arm", "seed"])["folder"]
        asked = folders.map(lambda x: read_yaml(x / "params.yaml").get("learning_rate"))
        own = table.join(asked.rename("asked"), on=["arm", "seed"])["asked"]
        table["learning_rate"] = table["learning_rate"].fillna(own)
    return table


def unequal_tries(runs: pd.DataFrame) -> str:
    """The number of candidates of each arm that is trained in epochs; "" if all have as many."""
    trained = runs[[run.get("num_epochs", 0) > 0 for run in runs["params"]]]
    tried = read_table(trained, "search.csv")
    count = dict.fromkeys(trained["arm"], 1)
    if len(tried):
        count |= (tried.groupby("arm").size() // tried.groupby("arm")["seed"].nunique()).to_dict()
    if len(set(count.values())) < 2:
        return ""
    return ", ".join(f"{arm} {number}" for arm, number in count.items())
