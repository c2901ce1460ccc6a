"""The gateway: the cache by plain HTTP, for programs in any language. GUIDE.md has what its users see."""
