"""What several examples need: modules, a loop that ends at the best epoch, statistics over seeds."""
