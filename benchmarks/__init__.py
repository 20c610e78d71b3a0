"""Speed and memory of steerkit, side by side with the physical floor and with the peers: `python -m benchmarks`."""
