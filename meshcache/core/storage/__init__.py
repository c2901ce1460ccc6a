"""What one node holds: records, their tags, what was dropped, and pages for those who pull."""
