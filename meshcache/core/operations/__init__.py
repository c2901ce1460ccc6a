"""What nodes do for clients and for each other: reads, writes, changes, leases, drops, and the copies of hot keys."""
