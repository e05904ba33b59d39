"""How well methods name known interactions: `python -m examples.benchmarks.identify`."""
