"""Parameters: what a run may be asked to do, checked before anything is loaded."""
