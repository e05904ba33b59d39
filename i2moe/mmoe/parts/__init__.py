"""Parts of an `MMoE`: predictors, router, aggregation, the task, and how each is trained."""
