"""What every process shares; the only place that knows the environment, the clock and the clients."""
