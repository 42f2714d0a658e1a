"""Files of a run, and a finished run as a classifier.

run            a run: its documents, the steps that all notebooks share, what it saves
models         the model of an arm, loaded once for training, prediction and export
reading        the part of each document that an arm reads
search         the parameters that are best on validation
few_shot       prompts that show examples, and the examples that a run keeps
baselines, estimators       TF-IDF and frozen embeddings; scikit-learn classifiers
record         the files of a run, written whole
finished       these files, checked and read back
owner          one process per run
distillation   a teacher's probabilities
classifier     a finished run as a classifier of new texts
scoring        the model of a finished run as a function from texts to scores
predict        a file of texts with the labels of a classifier
attribution    the words that a run's answer to a text rests on
new, advice    a study of a user's own file; its language, its prompt, and cautions about it
plan, rates    cost of a study before it is run
export         a trained run as a folder that other software serves
export_head, export_prompt  its two kinds
card           the model card
"""

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
