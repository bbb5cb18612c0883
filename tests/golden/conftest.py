"""The scripts here are compared and run by `tests/test_transform.py`; pytest leaves them alone."""

collect_ignore_glob = ["test_hf_*.py"]
