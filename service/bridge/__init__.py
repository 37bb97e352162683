"""The bridge: takes pictures from cameras and folders, has Anole judge them, and passes the verdicts to machines.

It is a process of its own and talks to Anole over HTTP. It needs the extra `bridge`.
"""
