"""How it is judged: completion, answer, score, matrix, metrics. Imports only ``task_streams``."""
