from .adapters import add_lora as add_lora
from .fast.cached_layers import cache_lower_layers as cache_lower_layers
from .forward import last_hidden_states as last_hidden_states
from .load import count_parameters as count_parameters
from .load import load_backbone as load_backbone
from .tokens import encode_documents as encode_documents
from .weights import load_config as load_config
from .weights import load_tokenizer as load_tokenizer
