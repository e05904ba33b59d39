"""Parts of an `MMoE`: predictors, router, aggregation, the objective, and how each is trained."""
