"""What MLflow is told, fed from files."""
