"""Every data set, fusion and ablation of the paper behind one command: `python -m examples.reproduce --help`."""
