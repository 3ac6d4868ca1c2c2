"""Feature tables to a trained fusion model: batches, the loop, checkpoints, evaluation, prediction."""
