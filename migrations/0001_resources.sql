-- What was asked for, and what may be in the kernel beside it.
CREATE TABLE resources (
    uid         TEXT    PRIMARY KEY,
    kind        TEXT    NOT NULL CHECK (kind IN ('namespace', 'bridge', 'veth')),
    name        TEXT    NOT NULL,
    generation  INTEGER NOT NULL CHECK (generation > 0),
    created_at  TEXT    NOT NULL,               -- RFC 3339, UTC
    updated_at  TEXT    NOT NULL,
    desired     TEXT    CHECK (json_valid(desired)),            -- NULL: deleted, and perhaps not yet gone from the kernel
    applied     TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(applied)),  -- earlier intents that may still be in the kernel
    prior       TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(prior))     -- sysctls' values before netnsd set them
) STRICT;

-- A name may be taken again while what had it before is still being cleared away.
CREATE UNIQUE INDEX resources_name ON resources (kind, name) WHERE desired IS NOT NULL;
