-- Rights of the token's caller on the host itself. A token from before this column that has a prefix has none.
ALTER TABLE tokens ADD COLUMN host TEXT NOT NULL DEFAULT 'any' CHECK (host IN ('none', 'ports', 'any'));
UPDATE tokens SET host = 'none' WHERE prefix IS NOT NULL;
