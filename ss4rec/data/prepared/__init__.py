"""The prepared folder on disk: its tables and the manifest that describes them.

Shapes: E events, users concatenated in ascending id; U users; V items (with padding where a table of the model begins
with it); S users of one shard; F columns of profiles; A columns of item attributes; M months; X entries of a list;
B buckets of a histogram; a 1 behind a letter means one more (bounds).
"""
