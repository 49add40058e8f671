"""``clrft method new`` and ``check``: the contract's promises, tried in short real runs."""
