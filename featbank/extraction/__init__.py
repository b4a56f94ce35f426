"""From images and a recipe to shards: plan, tasks, workers, and the run that joins them."""
