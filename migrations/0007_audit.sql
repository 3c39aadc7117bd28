-- The argument vector of a command, as a JSON array of strings; NULL: none.
ALTER TABLE audit ADD COLUMN argv TEXT CHECK (json_valid(argv));

-- How many requests the entry stands for: refusals that repeat are recorded together.
ALTER TABLE audit ADD COLUMN count INTEGER NOT NULL DEFAULT 1 CHECK (count > 0);

-- Refusals and what was done are bounded apart, so that the former cannot displace the latter.
CREATE INDEX audit_done ON audit (id) WHERE status NOT IN (401, 403);
CREATE INDEX audit_refused ON audit (id) WHERE status IN (401, 403);
