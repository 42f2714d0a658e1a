"""Head or Prompt: what the study's notebooks share. Importing it loads and touches nothing."""

import logging

# bitsandbytes looks for an optional hub kernel when it is imported and warns if it finds none.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
