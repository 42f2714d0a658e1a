"""Approach 2: ask about a document and read the answer."""
