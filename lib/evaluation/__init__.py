"""F1 and how sure it is: arrays in, arrays out."""
