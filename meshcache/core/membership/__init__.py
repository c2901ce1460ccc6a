"""Who is in the mesh: the facts, how they spread, who is suspect, who is new, and which side has the majority."""
