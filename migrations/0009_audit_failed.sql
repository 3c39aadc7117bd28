-- Whatever was not carried out is bounded apart from what was done, not only what 401 and 403 refused.
DROP INDEX audit_done;
DROP INDEX audit_refused;
CREATE INDEX audit_done ON audit (id) WHERE status < 400;
CREATE INDEX audit_failed ON audit (id) WHERE status >= 400;
