"""The compatibility reports: one module a format, all rendered from `data.Matrix`."""
