-- What happened, in its order. Only the newest are kept.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    time    TEXT    NOT NULL,                               -- RFC 3339, UTC
    type    TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    uid     TEXT,                                           -- NULL: not managed by netnsd
    detail  TEXT    NOT NULL CHECK (json_valid(detail))
) STRICT;
