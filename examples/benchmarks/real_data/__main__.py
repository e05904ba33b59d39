"""Real data: are the recommended experts worth having, do their weights say what the model does, what do they cost?

python -m examples.benchmarks.real_data                        # everything
python -m examples.benchmarks.real_data --quick --data leaves  # a first look

Each contender is trained by one recipe on each split of each data set. No interaction is known here, so weights are
compared with the model's own predictions from one modality alone.

* score: accuracy, AUROC (two classes) or R2 on the test split. missing: the mean of those without one modality.
  subsets: the mean over all non-empty proper subsets. noise, masked: with one modality changed.
* nll: negative log-likelihood in nats. scaled: with a temperature from the validation split. ece: calibration error.
  aurc: error rate averaged over coverages. risk at 80%: error rate among the surest 80%.
* faithful: rank correlation over the samples of an expert's weight and the share that it names, of the model's own
  predictions: mean over the experts, and the worst expert.
* stable: rank correlation of the weights of two starts, mean over the experts. by weight: each expert counts as much as
  its mean weight. two models: the same of the mean weights of two models and of two others, with --starts 4. Pearson:
  plain correlations; expected is that of two models by the Spearman-Brown formula.
* starts differ: how much of a sample's weight is elsewhere in the other start (half L1), mean over the samples.
* apart: distance (half L1) of the mean weights from the shares by networks trained apart on one modality each. Of
  variance: the same of the means in which a sample counts by the squared distance of its prediction from the mean.
* means differ, shares of variance differ: the same distances between the two starts.
* benefit: how well a score tells on which samples the model does better without a modality (macro AUROC).
* training: seconds of CPU time. inference: milliseconds of CPU time for 1,000 samples, for the prediction alone, and
  with weights.
"""

from __future__ import annotations

import sys

from examples.benchmarks.real_data.running import run_all
from examples.benchmarks.real_data.settings import Settings
from examples.benchmarks.real_data.table import print_tables

__all__ = ["main"]


def main(settings: Settings) -> None:
    """Run everything and print the tables."""
    print_tables(run_all(settings))


if __name__ == "__main__":
    import tyro

    try:
        main(tyro.cli(Settings, description=__doc__))
    except (FileNotFoundError, KeyError, ValueError) as error:
        sys.exit(f"error: {error}")
