"""A picture inside Markdown, which Dagster's UI shows: no file, and nothing that whoever looks would fetch."""

import base64
import re

import dagster as dg


def inline_picture(content: bytes, media_type: str, title: str) -> dg.MetadataValue:
    """The picture under its title, of which only what cannot end a link or begin one is kept."""
    name = re.sub(r"[^\w ,.]", " ", title)
    return dg.MetadataValue.md(f"![{name}](data:{media_type};base64,{base64.b64encode(content).decode()})")
