"""Files that start ss4rec on clusters, and their offline validation."""
