"""What a report measures: diagnostics, quality, the cost of dropping a modality, a second model."""
