"""Values that parameters may have, in a module without torch: Snakemake reads them too."""

POOLINGS = ("last", "cls", "mean", "weighted_mean", "max")
HEADS = ("linear", "mlp")
LOSSES = ("cross_entropy", "focal", "asymmetric", "logit_adjusted")
SET_LOSSES = ("asymmetric",)  # for label sets alone
DECODINGS = ("generate", "greedy", "search", "score_length", "score_prior", "score")
SET_DECODINGS = ("generate", "steps", "score", "yes_no")
SET_THRESHOLDS = ("score", "yes_no")  # decodings that give sets by a threshold on scores
AVERAGED = ("score_length", "score_prior", "score", "yes_no")  # decodings with scores to average
LORA_VARIANTS = ("lora", "rslora", "dora")
TRACKERS = ("tensorboard", "mlflow", "wandb")
