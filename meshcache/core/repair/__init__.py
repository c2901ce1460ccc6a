"""How replicas come to agree: slots that move, hints, comparison, and what was lost."""
