"""Feature vectors → {modality: encoder} + fusion + {task: head} → predictions."""
