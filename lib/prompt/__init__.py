"""Approach 2: ask about a document, and read the answer.

template       the prompt: instruction, listed labels, examples, document
frame          the texts of a chat template around a document and its answer
inputs         prompts with answers to train on
answers        labels as answers, and answers as labels
decode         labels by every decoding, from free generation to likelihoods of labels
label_sets     label sets, one label after another or one question per label
label_scores, label_trie    likelihoods of whole labels, with shared beginnings computed once
cached_states  states below the adapters while labels are scored, computed once
search, branches            the most probable label, found best first
examples       examples in a prompt, and questions about single labels
"""

import lazy_loader

# A name is imported from its file, see __init__.pyi, when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
