"""Several nodes on one machine: their processes, their supervisor, their ports and logs."""
