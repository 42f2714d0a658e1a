"""Approach 1: pool the hidden states of a document and classify."""
