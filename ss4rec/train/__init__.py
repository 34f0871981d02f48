"""The training loop (pure torch) and its host on Ray Train (`ray_backend`)."""
