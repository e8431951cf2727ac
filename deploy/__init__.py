"""The local stack, the sandbox providers and the sample data."""
