"""GPU kernels against mamba-ssm and torch (`python -m benchmarks.kernels`)."""
