"""Files that a run leaves on disk, a finished run as a classifier, and the price of a planned one."""
