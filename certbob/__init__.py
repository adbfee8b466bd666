"""CertBob: self-service personal X.509 client certificates."""

__version__ = "0.1.0"
