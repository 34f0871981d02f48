"""What the benchmarks of the loop share: data that grow, trainings that are kept, quality on later events."""
