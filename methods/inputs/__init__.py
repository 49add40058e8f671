"""Questions to a model's tensors."""
