"""Do the weights name the interaction? On data where it is known for every sample, for any method.

Without options it runs the table of the documentation. Others:

python -m examples.benchmarks.identify --data literature --method computed ceiling exact --json scores.json

python -m examples.benchmarks.identify --data invariance --method computed --seeds 3

Every method gets the same samples, networks and settings for every seed.
"""

from __future__ import annotations

import sys

from examples.benchmarks.identify.running import identify
from examples.benchmarks.identify.settings import Settings
from examples.benchmarks.identify.table import plot, print_table, write_json

__all__ = ["main"]


def main(settings: Settings) -> None:
    """Run everything, print the table, write what is asked for."""
    results = identify(settings)
    print_table(results)
    if settings.json:
        write_json(results, settings, settings.json)
    if settings.figure:
        plot(results, settings.figure)


if __name__ == "__main__":
    import tyro

    try:
        main(tyro.cli(Settings, description=__doc__))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
