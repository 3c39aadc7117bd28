-- The addresses that the resource's devices have where none is asked for, one for each end; '[]': not known yet, as of a
-- row from before this column.
ALTER TABLE resources ADD COLUMN macs TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(macs));

-- What those addresses are derived with, so that no two machines have the same. One row.
CREATE TABLE machine (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    key     BLOB    NOT NULL CHECK (length(key) = 32)
) STRICT;
INSERT INTO machine (id, key) VALUES (1, randomblob(32));
