"""One model in every loop: short programs that run, each with its own page in docs/every-loop.md."""
