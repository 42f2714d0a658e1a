"""Head or Prompt: the code that the study's notebooks share; importing it loads nothing."""

import logging

# bitsandbytes looks for an optional hub kernel when it is imported and warns if it finds none.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
