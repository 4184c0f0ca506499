"""Drawing and answering with a trained model."""
