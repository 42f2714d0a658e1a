"""The WIPO-Alpha collection of patents."""
