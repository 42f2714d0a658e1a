from .cached_states import lower_states as lower_states
from .decode import decode_labels as decode_labels
from .inputs import require_room as require_room
from .inputs import training_examples as training_examples
from .label_scores import score_labels as score_labels
from .label_trie import LabelTrie as LabelTrie
from .template import PromptTemplate as PromptTemplate
from .template import build_template as build_template
