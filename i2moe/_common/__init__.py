"""What every room of the package builds on: the types of inputs and outputs, tasks, names, checks, means, files."""
