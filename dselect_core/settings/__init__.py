"""dselect.yaml as typed settings, its schema and reference, and where everything lies in the storage."""
