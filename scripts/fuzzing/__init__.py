"""What ``scripts/fuzz`` is made of.

``frames`` draws messages and frames: valid ones, with fields at their edges or of wrong types, damaged ones, noise.
``episodes`` has targets (one node core with peers played by hand; a simulated mesh of three) and plays a drawn list of
steps to them; what must not be is a *finding*. ``shrinking`` takes from a list of steps what a finding does not need.
``processes`` sends frames to a mesh of real processes, and ``handshakes`` bytes to the ports of a mesh with keys;
``judging`` has an honest client beside them, and tells what must not be. ``commands`` draws commands of memcached's
protocol, and ``memcached`` compares what a memcached and a node answer. ``program`` is the command.
"""
