"""How far a policy has moved from those before it: probes, and the passes behind them."""
