"""Documents in, splits out: files, labels, sampling and the audit."""
