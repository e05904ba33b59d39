"""Programs that use `i2moe`."""
