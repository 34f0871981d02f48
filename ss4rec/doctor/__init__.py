"""What is wrong with this machine, or with a cluster, before a run finds out."""
