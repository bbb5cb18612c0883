"""Working tests, one per architecture, from which `generator` makes the scripts of all families.

`templates/<architecture>.py` is a complete test of one reference model and runs as it stands
(`python -m templates.encoder_only`); `templates/_*.py` hold what the templates share. `generator`
inlines from them what a script reaches; `tools` takes the device facts from `_devices`.
"""
