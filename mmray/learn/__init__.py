"""Feature tables → batches → a trained model, its metrics and its checkpoint."""
