"""Several nodes on one machine: processes, who starts them again, their ports and what they say."""
