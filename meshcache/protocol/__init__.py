"""What clients and nodes share: messages, frames, records, the clock, the ring, announcements and near copies.

Pure, and the lowest layer: it imports neither the client nor the node.
"""
