"""align: preference alignment on token trees."""

__version__ = "0.2.0"
