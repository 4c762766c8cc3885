"""The version of the packages, for the metadata, the manifests and the face alike."""

__version__ = "0.2.0"
