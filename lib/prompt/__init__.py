"""Approach 2: ask about a document, and read the answer.

template       the prompt: instruction, document, examples
listing        what a prompt lists
inputs         prompts with answers to train on
answers        labels as answers, and answers as labels
decode         answers by every strategy of the ladder
label_scores, label_trie    likelihoods of whole labels, with shared beginnings computed once
search, branches            the most probable label, found best first
examples       examples in a prompt, and questions about single labels
"""

from lib.prompt.decode import decode_labels
from lib.prompt.inputs import require_room, training_examples
from lib.prompt.label_scores import score_labels
from lib.prompt.label_trie import LabelTrie
from lib.prompt.listing import build_template
from lib.prompt.template import PromptTemplate

__all__ = [
    "LabelTrie",
    "PromptTemplate",
    "build_template",
    "decode_labels",
    "require_room",
    "score_labels",
    "training_examples",
]
