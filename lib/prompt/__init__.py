"""Approach 2: ask about a document, and read the answer.

template       the prompt: instruction, listed labels, examples, document
frame          the texts of a chat template around a document and its answer
inputs         prompts with answers to train on
answers        labels as answers, and answers as labels
decode         answers by every decoding of the ladder, in a table
label_sets     label sets, one label after another or one question per label
label_scores, label_trie    likelihoods of whole labels, with shared beginnings computed once
cached_states   states below the adapters while labels are scored, computed once
search, branches            the most probable label, found best first
examples       examples in a prompt, and questions about single labels
"""

from lib.prompt.cached_states import lower_states
from lib.prompt.decode import decode_labels
from lib.prompt.inputs import require_room, training_examples
from lib.prompt.label_scores import score_labels
from lib.prompt.label_trie import LabelTrie
from lib.prompt.template import PromptTemplate, build_template

__all__ = [
    "LabelTrie",
    "PromptTemplate",
    "build_template",
    "decode_labels",
    "lower_states",
    "require_room",
    "score_labels",
    "training_examples",
]
