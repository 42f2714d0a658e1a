"""Parameters that a run accepts, checked before anything is loaded.

choices       names that parameters may have
group         the base of all groups
data          the data
groups        model, adapter, training, head and prompt
arms          the parameters of each notebook
search        candidates of a search over parameters
sources       public data sets that data/sources.yaml describes
study         a study's files, checked against each other
notebook      parameters of a running notebook, and their table
strict_yaml   YAML in which every mistake is one line
"""

from lib.config.arms import NOTEBOOK_PARAMS
from lib.config.notebook import notebook_params, parameters_table
from lib.config.study import load_params, load_study

__all__ = [
    "NOTEBOOK_PARAMS",
    "load_params",
    "load_study",
    "notebook_params",
    "parameters_table",
]
