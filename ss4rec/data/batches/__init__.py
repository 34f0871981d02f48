"""What training sees: windows of histories, their order, and packed batches.

Shapes: E events of a shard; U its users; W windows; S sequences of a batch; T tokens of all its sequences; R targets; X
entries of a ragged list beside the tokens; F columns of profiles; a 1 behind a letter means one more (bounds).
"""
