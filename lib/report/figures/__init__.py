"""Figures of the comparison, each a function of tables that returns a figure.

Tables are those of `lib.report.tables` and `lib.evaluation`. A function that may have nothing to
show returns None then.

style         colours, markers, legends, scales, and how a figure is saved
scores        F1 of each arm, and differences between pairs
curves        F1 by training documents
cost          F1 against time, energy, memory
confidence    reliability, and precision by coverage
slices        F1 by parts of the test split
details       labels, confusion, training, layers, decoding
answer        head minus prompt by task, and ranks of arms
fonts         an installed font for every script
"""
