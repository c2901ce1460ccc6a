"""What clients and nodes share: messages and frames, records, the clock, the ring, announcements and near copies.

Pure, and below both: it knows neither.
"""
