"""Bytes on disk and S3: tables, the append-only store of scores, arrays of vectors, heads of sources."""
