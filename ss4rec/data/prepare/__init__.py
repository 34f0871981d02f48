"""`prepare` for sources of any size: small tasks that read and write files, run by any mapper (here, or Ray).

    blocks   a byte range (or a piece of a stream) becomes rows sorted by (user, time, file order), in a file
    core     item counts of all blocks, again and again, until the k-core stands
    shards   ranges of users, gathered from the blocks that hold them, become the prepared folder

A finished file is never made again, so a job that was killed continues where it stood.
"""
