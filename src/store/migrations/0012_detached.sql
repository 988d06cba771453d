-- 1: its command goes on without its connection and without Roundsman; after a stop it is looked for on its server.
ALTER TABLE operation_targets ADD COLUMN detached INTEGER NOT NULL DEFAULT 0;
