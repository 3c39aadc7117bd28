-- What the token's caller may have on the host itself. One from before this column that has a prefix may have nothing there.
ALTER TABLE tokens ADD COLUMN host TEXT NOT NULL DEFAULT 'any' CHECK (host IN ('none', 'ports', 'any'));
UPDATE tokens SET host = 'none' WHERE prefix IS NOT NULL;
