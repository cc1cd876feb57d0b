"""What controller and agent answer over HTTP: probes to everybody, metrics to who may read them.

:mod:`.access` decides and remembers, :mod:`.reviews` puts it to the API server, :mod:`.server`
speaks HTTP. Imports nothing of ours, and no library: each of the two has a client of its own.
"""
