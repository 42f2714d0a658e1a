import pandas as pd

from lib.report.paper import CONTEXT, PAPER, paper_context


def test_the_papers_rows_stand_below_ours_and_are_called_context():
    ours = {"arm": "embedding", "micro_f1": 0.7, "micro_f1_low": 0.68, "micro_f1_high": 0.72}
    table = paper_context(pd.DataFrame([ours | {"trainable_params": 1e6}]), data="patents")
    assert table["source"].tolist() == ["this study", *[CONTEXT] * len(PAPER)]
    assert table.loc[0, ["system", "data", "f1"]].tolist() == ["embedding", "patents", 0.7]
    assert not set(table["data"][1:]) & {"patents"}
    frozen = table[table["system"] == "frozen LLM2Vec embedding and head"].iloc[0]
    assert frozen["f1"] == 0.833
    assert pd.isna(frozen["trainable_params"])
