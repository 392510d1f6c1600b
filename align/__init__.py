"""align: preference alignment on token trees."""

__version__ = "0.1.0"
