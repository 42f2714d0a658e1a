"""Documents in, splits out.

load             a study's train, validation and test documents, from its parameters
tables           rows of files, packages and hub data sets, as they are
delimited        CSV, TSV and Orange's .tab
encodings        text files, decoded; files that are no text
json_lines       JSON Lines and lists
documents        rows to documents: text, labels and id, each checked with its row
columns, label_columns   columns of a table of unknown meaning
locate           files that belong to one data set
unlabelled       texts without labels, to be classified
written_tables   tables written a few rows at a time
labels           the study's labels, their texts for prompts, their hierarchy, their support
indicators       label sets as columns of yes and no
written_lists    label lists that a file contains as text
sampling         stratified, grouped or by time, from the data seed alone
auditing         leakage, repeats, unusable labels, damaged text
near_duplicates  texts that are in several splits
version          name and fingerprint of a data set
words            the words of a text in any script
wipo/            the reader of the WIPO-Alpha collection
"""

from lib.data.auditing import audit
from lib.data.labels import LabelSpace
from lib.data.load import load_splits, take_train
from lib.data.near_duplicates import find_duplicates

__all__ = ["LabelSpace", "audit", "find_duplicates", "load_splits", "take_train"]
