"""Tables, figures and sentences of 01_explore_data, 05_compare, 06_answer and 07_try_it.

An arm is one way to classify that a study compares, such as "embedding", the head, or
"instruction", the prompt. A run is an arm with one seed and one training size. Tables list their
columns as `arm num_seeds micro_f1`; `micro_f1_low` and `micro_f1_high` are the ends of a 95 %
interval.

answer            many tasks pooled, for 06_answer
study             results of a study, and the folder that its report is written to
tables            finished runs side by side
search            candidates of the searches for parameters that runs made
recommendation    the arm to pick, by stated rules
verdict           the recommendation in one sentence, and a line per arm
names             arms in words
columns           tables with the meaning of their columns
reading           the share of documents that arms cut at their maximum length
sentences         sentences about the numbers, as templates
wording           numbers, names and lists in sentences
calibration       confidence of arms
disagreements     documents that one of two arms gets right
template          the HTML page of a report and its style; `lib.page` fills it
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
