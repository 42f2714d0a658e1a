"""Tables, figures and sentences of 01_explore_data, 05_compare, 06_answer and 07_try_it.

answer            many tasks pooled, for 06_answer
study             results of a study, and the folder that its report is written to
tables            finished runs side by side
recommendation    the arm to pick, by stated rules
verdict           that in one sentence, and a line per arm
names             arms in words
columns           tables with the meaning of their columns
reading           the share of documents that arms cut
sentences         what the numbers say, as templates
wording           numbers, names and lists in sentences
calibration       confidence of arms
slices            F1 by parts of the test split
disagreements     documents that one of two arms gets right
template          what a report looks like as an HTML page; `lib.page` fills it
notebooks         executed notebooks beside the report
explore, browse   documents and labels before anything is trained
try_it, try_it_widgets    single texts: answers, the words behind them, errors
corrections       corrected labels in a file
figures           every figure of the comparison

Notebooks take functions from `explore`, `browse`, `disagreements`, `try_it`, `try_it_widgets` and
`figures` by the file's name.
"""

from lib.report.answer import AnswerResults
from lib.report.columns import show_table
from lib.report.figures.style import save_figure, set_plot_style
from lib.report.recommendation import RULES, recommend
from lib.report.sentences import conclude_effects, describe_curves, three_sentences
from lib.report.study import StudyResults

__all__ = [
    "RULES",
    "AnswerResults",
    "StudyResults",
    "conclude_effects",
    "describe_curves",
    "recommend",
    "save_figure",
    "set_plot_style",
    "show_table",
    "three_sentences",
]
