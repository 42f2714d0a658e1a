"""One training loop for both approaches."""
