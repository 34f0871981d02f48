"""Serving: events in, lists out. Events are the truth and lie in a database; states are a cache that is made from them.

store      the database: `sqlite` on one machine, `postgres` for several, one of them by `open_store`
service    model, cache of states and store together, without a network
batcher    requests that wait become one batch
app        the web application (ASGI), with `schemas`, `guards` and `metrics`
ray_serve  the application as replicas of Ray Serve
"""
