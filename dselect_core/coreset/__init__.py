"""A recipe's coreset: its spec, what is to do, the making, the files, the manifest, what changed."""
