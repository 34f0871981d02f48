"""`prepare` for sources of any size: small tasks that read and write files, run by any mapper (here, or Ray).

    chunks     what one task reads: a byte range, some row groups, or lines of a stream; a small source is one chunk
    block      a chunk's rows sorted by (user, time, file order), in files
    partition  only for large sources that are not in the order of users: rows are dealt by user first
    k_core     item counts of all blocks, again and again, until the k-core stands
    assemble   ranges of users, gathered from the blocks that hold them, become the shards of the prepared folder

A finished file is never made again, so a job that was killed continues where it stood.

Shapes: R rows of a chunk in file order; E rows of a block, whole users, each in the order of time; U users; V items; K
kept users of a block; a 1 behind a letter means one more (bounds: `offsets_U1[u]` to `offsets_U1[u + 1]` is user u).
"""
