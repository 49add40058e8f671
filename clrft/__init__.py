"""The application: config, run, sweep, compare; checkpoints, tracking and the command line."""
