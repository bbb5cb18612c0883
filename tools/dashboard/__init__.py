"""The dashboard: one page that opens from disk, and an app that shows a run while it goes on."""
