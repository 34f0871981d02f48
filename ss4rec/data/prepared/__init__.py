"""The prepared folder on disk: its tables and the manifest that describes them."""
