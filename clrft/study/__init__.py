"""What runs show, side by side: comparisons, kinds of forgetting, costs, rewards, drift; tables and figures."""
