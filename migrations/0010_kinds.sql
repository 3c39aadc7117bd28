-- The kinds are listed in the program: a new one needs no migration.
CREATE TABLE resources_new (
    uid         TEXT    PRIMARY KEY,
    kind        TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    generation  INTEGER NOT NULL CHECK (generation > 0),
    created_at  TEXT    NOT NULL,               -- RFC 3339, UTC
    updated_at  TEXT    NOT NULL,
    desired     TEXT    CHECK (json_valid(desired)),            -- NULL: a tombstone
    applied     TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(applied)),
    prior       TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(prior)),
    adopt       INTEGER NOT NULL DEFAULT 0 CHECK (adopt IN (0, 1)),
    macs        TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(macs))
) STRICT;
INSERT INTO resources_new
SELECT uid, kind, name, generation, created_at, updated_at, desired, applied, prior, adopt, macs FROM resources;
DROP TABLE resources;
ALTER TABLE resources_new RENAME TO resources;
CREATE UNIQUE INDEX resources_name ON resources (kind, name) WHERE desired IS NOT NULL;
