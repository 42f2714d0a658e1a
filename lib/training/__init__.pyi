from .evaluate import climb_ladder as climb_ladder
from .evaluate import evaluate_embedding as evaluate_embedding
from .evaluate import evaluate_instruction as evaluate_instruction
from .finetune import finetune_embedding as finetune_embedding
from .finetune import finetune_instruction as finetune_instruction
from .processes import in_processes as in_processes
