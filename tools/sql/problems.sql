-- What could not be used in the results folder: which file, of what kind, what, how to mend it.
CREATE TABLE problems (
    run_id VARCHAR,
    path VARCHAR, -- in the results folder
    kind VARCHAR, -- BrokenManifest, MissingFooter, BrokenFooter, BrokenRecord or ForeignRecord
    problem VARCHAR,
    mend VARCHAR
)
