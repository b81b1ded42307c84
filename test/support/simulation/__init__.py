"""A deterministic simulation of the server: real manager, workers, planner and commits; simulated processes, clock, disk, network and blocks.

Everything that happens follows from one seed. `machine` has the loop that all simulated processes share, `disk` the database and what can go wrong
with it, `server` the manager and the workers, `blocks` what they perform, `outside` who starts, cancels and decides, `watch` what must hold of every
commit, `simulation` puts them together and brings a seed to its end.
"""
