"""What a training leaves behind: the run folder, its record, its checkpoints, and who may write it."""
