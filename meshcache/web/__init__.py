"""What the two HTTP servers, that of a node and the gateway, have in common: who may ask, and how it is encrypted."""
