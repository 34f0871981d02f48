"""Full-ranking evaluation: exact ranks, metrics, baselines, and the distributed driver (`ray_evaluate`, rim)."""
