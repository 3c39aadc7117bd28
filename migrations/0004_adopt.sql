-- 1: what others made at the resource's places is still to be taken over.
ALTER TABLE resources ADD COLUMN adopt INTEGER NOT NULL DEFAULT 0 CHECK (adopt IN (0, 1));
