"""What a trained model does and how well, as figures."""
