-- Bearer tokens: only the hash of the secret (SHA-256, hexadecimal).
CREATE TABLE tokens (
    name        TEXT PRIMARY KEY,
    role        TEXT NOT NULL,
    prefix      TEXT,
    expires_at  TEXT,                                       -- RFC 3339, UTC; NULL: never
    created_at  TEXT NOT NULL,
    hash        TEXT NOT NULL UNIQUE
) STRICT;

-- Who did what, with what answer. Only the newest are kept.
CREATE TABLE audit (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    time        TEXT    NOT NULL,                           -- RFC 3339, UTC
    caller      TEXT,
    role        TEXT,
    origin      TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    request_id  TEXT    NOT NULL
) STRICT;
