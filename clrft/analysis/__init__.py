"""What runs tell: comparisons, paired tests, the taxonomy of forgetting, drift, costs, rewards, published results."""
