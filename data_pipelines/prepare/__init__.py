"""Raw files to validated, sharded ArrayRecord: `python -m data_pipelines.prepare`."""
