"""Searches of a study's runs for the best parameters: every candidate, and their numbers by arm."""

import pandas as pd

from lib.config.strict_yaml import read_yaml
from lib.report.tables import read_table


def read_tries(runs: pd.DataFrame) -> pd.DataFrame:
    """Every candidate of the runs' searches: `arm seed`, its values, score and cost.

    The other columns are the searched parameters and `epochs micro_f1 train_seconds chosen`, on
    validation. A candidate without a learning rate of its own has that of its run. The
    table is empty if no run has searched.
    """
    table = read_table(runs, "search.csv")
    if "learning_rate" in table:
        folders = runs.set_index(["arm", "seed"])["folder"]
        asked = folders.map(lambda x: read_yaml(x / "params.yaml").get("learning_rate"))
        own = table.join(asked.rename("asked"), on=["arm", "seed"])["asked"]
        table["learning_rate"] = table["learning_rate"].fillna(own)
    return table


def unequal_tries(runs: pd.DataFrame) -> str:
    """The number of candidates of each arm that is trained in epochs; "" if all have equally many.

    An arm without a search has one. `runs` has `arm seed folder params`.
    """
    trained = runs[[run.get("num_epochs", 0) > 0 for run in runs["params"]]]
    tried = read_table(trained, "search.csv")
    count = dict.fromkeys(trained["arm"], 1)
    if len(tried):
        count |= (tried.groupby("arm").size() // tried.groupby("arm")["seed"].nunique()).to_dict()
    if len(set(count.values())) < 2:
        return ""
    return ", ".join(f"{arm} {number}" for arm, number in count.items())
