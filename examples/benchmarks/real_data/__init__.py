"""Real data: the recommended experts beside their own backbone, ensembles and the paper's experts."""
