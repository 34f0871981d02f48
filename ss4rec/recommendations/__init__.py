"""From a trained run to recommendations for everybody in files, to similar items, and to scores of given pairs.

options     what is asked for, as the manifest of a result keeps it
where       conditions over columns of items, read without running any code
items       the run's items with their columns
filters     which items may be recommended to whom
beside      files with lists of items, users or pairs
rerank      MMR, calibrated lists, limits per category
lists       the best items of each history under all of these
histories   from a prepared folder or a file of events to the histories that are ranked
parts       some rows of a shard become one file
job         the whole: in this process, or on Ray (`ray_recommend`)
nearest     rows that are like a row
similar     items that are like an item, in files
"""
