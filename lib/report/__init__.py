"""Tables, figures and sentences of 01_explore_data, 05_compare, 06_answer and 07_try_it.

answer            many tasks pooled, for 06_answer
study             results of a study, and the folder that its report is written to
tables            finished runs side by side
search            every candidate of their searches
recommendation    the arm to pick, by stated rules
verdict           that in one sentence, and a line per arm
names             arms in words
columns           tables with the meaning of their columns
reading           the share of documents that arms cut
sentences         what the numbers say, as templates
wording           numbers, names and lists in sentences
calibration       confidence of arms
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

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
