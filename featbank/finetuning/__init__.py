"""Fine-tuning: a whole network trained on the same folds as heads on its features."""
