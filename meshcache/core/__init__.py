"""The pure core: no I/O, no clock, no thread, no global randomness. Messages and the time come in, effects go out."""
