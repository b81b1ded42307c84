"""Kills the processes of a real server, thousands of runs under way, and then looks whether anything was lost, doubled or lied about.

`make chaos` runs it (`__main__`); `test/execution/test_chaos.py` uses the same parts for a shorter look at each fault point.
"""
